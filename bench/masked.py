"""The same hidden tokens, guessed by an encoder that sees both sides and by a GPT that sees the left only.

    python -m bench.masked --picture docs/pictures/masked.png

Both have the same layers, heads and sizes, and are trained on the same windows of the same text for the same number of
steps, with the same batch size and optimizer: the encoder on what is masked (15 % of the tokens), the GPT on every next
token. Measured is what was masked in the validation text: the encoder gets the masked window, the GPT all tokens to the
left of the place as they are. The first token of a window, of which a GPT knows nothing, is left out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

import llm
from llm.cli.main import main as train
from llm.data import MaskedDataModule
from llm.data.batch import IGNORED

SIZES = {"n_layer": 4, "n_head": 4, "n_embd": 128, "positions": "rotary", "dropout": 0.1}
COLOURS = {"encoder": "#0b6e99", "GPT": "#9aa5b1"}
_GROUP = 4


def main() -> None:
    """Train both, measure both, print a table."""
    parser = argparse.ArgumentParser(
        "python -m bench.masked", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--corpus", nargs="+", default=["story"], help="as data.corpus takes it (%(default)s)")
    parser.add_argument("--tokenizer", default="char", help="a kind: char, word, bpe, gpt2 (%(default)s)")
    parser.add_argument("--steps", type=int, default=1000, help="of each (%(default)s)")
    parser.add_argument("--masks", type=int, default=20, help="draws of the masks to measure on (%(default)s)")
    parser.add_argument("--picture", type=Path, help="write a PNG: loss by the place in the window")
    parser.add_argument("--tiny", action="store_true", help="a few steps, to see that it runs")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    steps = 3 if arguments.tiny else arguments.steps
    data = {
        "corpus": arguments.corpus,
        "tokenizer": {"kind": arguments.tokenizer},
        "context_length": 32,
        "stride": 8,
        "batch_size": 32,
    }
    with tempfile.TemporaryDirectory() as folder:
        encoder = checkpoint("masked", "encoder", data, steps, Path(folder))
        gpt = checkpoint("language", "gpt", data, steps, Path(folder))
        found = compare(encoder, gpt, data, arguments.masks)
    if arguments.picture is not None:
        draw(found, arguments.picture)
    if arguments.json:
        print(json.dumps({"steps": steps, "models": found}))
        return
    print(f"{'':<10}{'sees':>12}{'tokens':>10}{'accuracy':>10}{'loss (nats)':>13}{'parameters':>13}")
    for name, values in found.items():
        sees = "both sides" if name == "encoder" else "the left"
        numbers = (
            f"{values['tokens']:>10,}{values['accuracy']:>10.1%}{values['loss']:>13.3f}{values['parameters']:>13,}"
        )
        print(f"{name:<10}{sees:>12}{numbers}")


def checkpoint(task: str, group: str, data: dict[str, Any], steps: int, folder: Path) -> str:
    """Train the network of a task, and give the path of its best checkpoint."""
    settings = {
        "task": task,
        "model": {group: SIZES, "optim": {"learning_rate": 2e-3, "warmup_steps": 50}},
        "data": data,
        "trainer": {
            "max_steps": steps,
            "val_check_interval": max(1, steps // 10),
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": task}},
        },
        "inspect": {"every": 0},
    }
    file = folder / f"{task}.yaml"
    file.write_text(json.dumps(settings))  # which is YAML, too
    if status := train(["fit", "--config", str(file)]):
        raise SystemExit(status)
    return str(next((folder / task).rglob("best.ckpt")))


@torch.no_grad()
def compare(encoder_path: str, gpt_path: str, data: dict[str, Any], masks: int) -> dict[str, dict[str, Any]]:
    """What both make of the tokens that are masked in the validation text."""
    encoder, tokenizer = llm.load(encoder_path)
    gpt, _ = llm.load(gpt_path)
    masked = MaskedDataModule(**{**data, "tokenizer": tokenizer})
    masked.setup("validate")
    rows = masked.make_rows(masked.validation_tokens, data["context_length"], training=False)
    losses: dict[str, list[Tensor]] = {"encoder": [], "GPT": []}
    hits: dict[str, list[Tensor]] = {"encoder": [], "GPT": []}
    places = []
    for draw_of_masks in range(masks):
        inputs, targets, *_ = rows.gather(range(len(rows)), draw_of_masks)
        hidden = (targets != IGNORED) & (torch.arange(targets.shape[1]) > 0)  # (B, T)
        ids = torch.where(targets == IGNORED, inputs, targets)
        places.append(hidden.nonzero()[:, 1])  # (N)
        left = gpt(ids).roll(1, dims=1)  # (B, T, V): what follows a token stands at the next
        for name, logits in (("encoder", encoder(inputs)), ("GPT", left)):
            found = logits[hidden][:, : gpt.config.vocab_size].float()  # (N, V), the same tokens for both
            losses[name].append(F.cross_entropy(found, ids[hidden], reduction="none"))  # (N)
            hits[name].append(found.argmax(-1) == ids[hidden])  # (N)
    place = torch.cat(places)
    models = {"encoder": encoder, "GPT": gpt}
    return {
        name: {
            "tokens": len(place),
            "accuracy": float(torch.cat(hits[name]).float().mean()),
            "loss": float(torch.cat(losses[name]).mean()),
            "parameters": sum(parameter.numel() for parameter in models[name].parameters()),
            "loss_by_place": _by_place(torch.cat(losses[name]), place, data["context_length"]),
        }
        for name in models
    }


def _by_place(loss: Tensor, place: Tensor, context_length: int) -> dict[int, float]:
    """The mean loss of a few neighbouring places each, by the first of them."""
    groups = {start: (place >= start) & (place < start + _GROUP) for start in range(1, context_length, _GROUP)}
    return {start: float(loss[chosen].mean()) for start, chosen in groups.items() if chosen.any()}


def draw(found: dict[str, dict[str, Any]], path: Path) -> None:
    """The loss of both over the place of the hidden token in the window."""
    figure = Figure(figsize=(7, 3.2), dpi=110, layout="constrained")
    axis = figure.subplots()
    for name, values in found.items():
        by_place = values["loss_by_place"]
        label = f"{name}: {'both sides' if name == 'encoder' else 'the left only'}"
        axis.plot(
            [int(place) for place in by_place], list(by_place.values()), label=label, color=COLOURS[name], marker="o"
        )
    axis.set_xlabel("place of the hidden token in the window")
    axis.set_ylabel("loss (nats)")
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, metadata={"Software": None})


if __name__ == "__main__":
    main()
