"""From the start of the process to a good loss: `train.py fit` against nanoGPT's recipe for a character GPT.

    OMP_NUM_THREADS=1 python -m bench.from_start --corpus 'texts/*.txt' --steps 120 200 300

Both have four layers 128 wide, a context of 64 characters and batches of 12. nanoGPT's recipe is the one that its
README gives for a processor: 2,000 steps in float32, AdamW at 0.001 falling to 0.0001, dropout 0, and every 250 steps
the loss of 20 batches of each split. Here its model and loop are written out (`bench/_nanogpt.py`), in a process of
their own that imports nothing else. Ours is `train.py fit --config configs/modern.yaml` with all that a user gets,
preflight, validation, attention maps, samples and checkpoints, once for each number of `--steps`, over which its
learning rate falls.

Seconds are those of the whole process, from its start to its end: of the wall, and of the processor. Both losses are of
the same validation windows, computed afterwards.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "modern.yaml"
SIZES = {"context_length": 64, "n_layer": 4, "n_head": 4, "n_embd": 128}
BATCH = 12


def main() -> None:
    """Run both, and print what each took."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m bench.from_start", description=__doc__, formatter_class=raw)
    parser.add_argument(
        "--corpus", default=str(ROOT / "data" / "story.txt"), help="as data.corpus takes it (the story)"
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[120, 200, 300], help="of ours (%(default)s)")
    parser.add_argument("--recipe_steps", type=int, default=2000, help="of nanoGPT's recipe (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    parser.add_argument("--recipe", type=Path, help=argparse.SUPPRESS)  # the process of the recipe
    arguments = parser.parse_args()
    if arguments.recipe:
        recipe(arguments.recipe, arguments.recipe_steps)
        return
    if arguments.tiny:
        arguments.steps, arguments.recipe_steps = [2], 3
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder), arguments)
    print(json.dumps(rows) if arguments.json else table(rows))


def measure(folder: Path, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for the recipe, and one for each number of steps of ours."""
    from llm.config import TokenizerConfig
    from llm.data import TextDataModule

    datamodule = TextDataModule(arguments.corpus, TokenizerConfig("char"), context_length=64, validation_windows=256)
    datamodule.setup("fit")
    parts = {"train": datamodule.train_tokens, "validation": datamodule.validation_tokens}
    for name, tokens in parts.items():
        tokens.astype("<u2").tofile(folder / f"{name}.bin")
    (folder / "vocab_size").write_text(str(datamodule.vocab_size))
    command = [sys.executable, "-m", "bench.from_start", "--recipe", str(folder)]
    taken = timed([*command, "--recipe_steps", str(arguments.recipe_steps)], ROOT)
    rows = [
        {"way": "nanoGPT's recipe", "steps": arguments.recipe_steps, **taken, "loss": recipe_loss(folder, datamodule)}
    ]
    for steps in arguments.steps:
        place = folder / str(steps)
        place.mkdir()
        words = ["fit", "--config", str(CONFIG), "--data.corpus", arguments.corpus, "--trainer.max_steps", str(steps)]
        taken = timed([sys.executable, str(ROOT / "train.py"), *words], place)
        rows.append({"way": "train.py fit, modern.yaml", "steps": steps, **taken, "loss": our_loss(place, datamodule)})
    return [{**row, "of_recipe": row["cpu_seconds"] / rows[0]["cpu_seconds"]} for row in rows]


def timed(command: list[str], folder: Path) -> dict[str, float]:
    """Seconds of a process from start to end."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        sys.exit(f"{done.stderr}error: {' '.join(command)} ended with status {done.returncode}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def recipe(folder: Path, steps: int) -> None:
    """nanoGPT's training loop on the tokens in a folder; leaves the weights there."""
    import math

    import numpy as np
    import torch

    from bench._nanogpt import NanoGPT

    torch.manual_seed(1337)
    parts = {name: np.fromfile(folder / f"{name}.bin", dtype="<u2") for name in ("train", "validation")}
    model = NanoGPT(int((folder / "vocab_size").read_text()), *SIZES.values())
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    groups = [
        {"params": decayed, "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))

    def batch(part: str) -> tuple[torch.Tensor, torch.Tensor]:
        T = SIZES["context_length"]
        starts = torch.randint(len(parts[part]) - T, (BATCH,)).tolist()
        rows = torch.stack([torch.from_numpy(parts[part][start : start + T + 1].astype("int64")) for start in starts])
        return rows[:, :-1], rows[:, 1:]

    warmup, least = 100, 0.1
    for step in range(steps + 1):
        progress = min(1.0, max(0.0, (step - warmup) / max(1, steps - warmup)))
        rate = min(1.0, (step + 1) / (warmup + 1)) * (least + (1 - least) * 0.5 * (1 + math.cos(math.pi * progress)))
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * rate
        if step % 250 == 0:
            model.eval()
            with torch.no_grad():
                for part in parts:
                    sum(float(model(*batch(part))) for _ in range(20))
            model.train()
        if step == steps:
            break
        loss = model(*batch("train"))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    torch.save(model.state_dict(), folder / "recipe.pt")


def recipe_loss(folder: Path, datamodule: Any) -> float:
    """On the validation windows."""
    import torch

    from bench._nanogpt import NanoGPT

    model = NanoGPT(datamodule.vocab_size, *SIZES.values())
    model.load_state_dict(torch.load(folder / "recipe.pt", weights_only=True))
    return mean_loss(model, datamodule)


def our_loss(folder: Path, datamodule: Any) -> float:
    """On the same windows: of the best checkpoint."""
    import torch.nn.functional as F

    import llm

    (checkpoint,) = folder.rglob("best.ckpt")
    model = llm.load(str(checkpoint)).model
    return mean_loss(lambda ids, targets: F.cross_entropy(model(ids).flatten(0, 1), targets.flatten()), datamodule)


def mean_loss(loss_of: Any, datamodule: Any) -> float:
    """Of all validation windows; `loss_of` gives the mean of a batch."""
    import torch

    total, n_tokens = 0.0, 0
    with torch.no_grad():
        for inputs, targets, *_ in datamodule.val_dataloader():
            total += float(loss_of(inputs, targets)) * targets.numel()
            n_tokens += targets.numel()
    return total / n_tokens


def table(rows: list[dict[str, Any]]) -> str:
    """In Markdown."""
    lines = [
        "| way | steps | s, wall | s, processor | of the recipe's | validation loss |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['way']} | {row['steps']:,} | {row['wall_seconds']:.1f} | {row['cpu_seconds']:.1f} | "
            f"{row['of_recipe']:.1%} | {row['loss']:.4f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
