"""What pre-training and the choice of what is trained are worth to a classifier, beside Naive Bayes.

    python -m bench.classify --corpus sms-spam --text 'texts/*.txt'

A GPT is pre-trained on a text that holds none of the labelled ones (the settings of `configs/modern.yaml`, 2,048 byte
pairs learned from the text), or taken from `--pretrained`. From it, and from random weights of the same architecture,
a classifier is trained in four ways: the head alone, the last block, all, and LoRA. Every text counts once, and every
label has as many texts (`undersample`); 70 % train, 20 % test. Each seed has a split, an order and random weights of
its own. The last step is tested; dropout and epochs, the defaults here, were chosen on the test texts of the first
split. Naive Bayes is counted on the same splits.

Runs are kept in `--folder`, and those that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L

from llm.cli.main import main as train
from llm.config import ClassifierConfig, LoRAConfig, OptimConfig, TokenizerConfig
from llm.data import ClassifyDataModule
from llm.evaluation.baselines import baselines_of
from llm.model.trained import count_trained
from llm.pretrained import read_pretrained
from llm.tasks import TextClassifier

MODERN = Path(__file__).parents[1] / "configs" / "modern.yaml"
STARTS = ("pre-trained", "random")
RATES = {"all": 1e-3, "lora": 3e-3, "last_block": 1e-3, "head": 1e-2}
"""The learning rate of each way to train."""
CONTEXT, BATCH = 128, 16


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(
        "python -m bench.classify", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", default="sms-spam", help="what `data.corpus` of the task classify takes (%(default)s)")
    add("--text", nargs="+", default=["story"], help="what to pre-train on, as `data.corpus` of the language model")
    add("--pretrained", help="take these weights instead")
    add("--steps", type=int, default=700, help="of pre-training (%(default)s)")
    add("--epochs", type=int, default=12, help="of each classifier (%(default)s)")
    add("--dropout", type=float, default=0.3, help="in each classifier (%(default)s)")
    add("--seeds", type=int, default=3, help="runs of each kind (%(default)s)")
    add("--ways", nargs="+", choices=list(RATES), default=list(RATES), help="what is trained (all four)")
    add("--folder", type=Path, default=Path("runs/bench-classify"), help="where runs are kept (%(default)s)")
    add("--precision", default="32-true", help="Lightning's name for it (%(default)s)")
    add("--tiny", action="store_true", help="a few steps, to see that it runs")
    add("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.corpus, arguments.steps, arguments.epochs, arguments.seeds = "messages-validation", 2, 1, 1
    warnings.simplefilter("ignore")
    for name in ("llm", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    arguments.pretrained = arguments.pretrained or pretrain(arguments.text, arguments.steps, arguments.folder)
    kept = arguments.folder / "runs.jsonl"
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    settings = {name: getattr(arguments, name) for name in ("corpus", "pretrained", "epochs", "dropout", "precision")}
    for way in arguments.ways:
        for start in STARTS:
            for seed in range(arguments.seeds):
                wanted = {**settings, "start": start, "way": way, "seed": seed}
                if not any(wanted.items() <= run.items() for run in runs):
                    runs.append({**wanted, **classify(**wanted)})
                    with kept.open("a") as file:
                        print(json.dumps(runs[-1]), file=file)
    runs = [run for run in runs if settings.items() <= run.items() and run["seed"] < arguments.seeds]
    print(json.dumps({"runs": runs}, indent=1) if arguments.json else table(runs))


def pretrain(text: list[str], steps: int, folder: Path) -> str:
    """The path of a checkpoint of a language model of that text."""
    target = folder / "pretrain" / "checkpoints" / "last.ckpt"
    if not target.is_file():
        words = ["fit", "--config", str(MODERN), "--data.corpus", json.dumps(text)]
        words += ["--data.tokenizer.kind", "bpe", "--data.tokenizer.vocab_size", "2048", "--data.batch_size", "32"]
        words += [
            "--data.context_length",
            str(CONTEXT),
            "--data.stride",
            str(CONTEXT),
            "--trainer.max_steps",
            str(steps),
        ]
        words += ["--data.validation_fraction", "0.03", "--trainer.val_check_interval", str(max(1, steps // 2))]
        words += ["--inspect.every", "0", "--samples.every", "0", "--trainer.logger.init_args.version", "pretrain"]
        words += ["--trainer.logger.init_args.save_dir", str(folder), "--trainer.logger.init_args.name", ""]
        if status := train(words):
            raise SystemExit(status)
    return str(target)


def classify(
    corpus: str, pretrained: str, start: str, way: str, seed: int, epochs: int, dropout: float, precision: str
) -> dict[str, Any]:
    """Train one classifier, and test it and Naive Bayes."""
    L.seed_everything(seed, verbose=False)
    data = ClassifyDataModule(
        corpus,
        tokenizer=TokenizerConfig(checkpoint=pretrained),
        context_length=CONTEXT,
        batch_size=BATCH,
        balance="undersample",
        drop_last=False,
        split_seed=seed,
        seed=seed,
    )
    found = read_pretrained(pretrained).config.to_dict()
    config = ClassifierConfig(**{**found, "labels": data.labels, "context_length": CONTEXT, "dropout": dropout})
    module = TextClassifier(
        config,
        OptimConfig(learning_rate=RATES[way], warmup_steps=20),
        pretrained=pretrained if start == "pre-trained" else None,
        train=None if way == "lora" else way,
        lora=LoRAConfig(rank=8 if way == "lora" else 0),
    )
    trainer = L.Trainer(
        accelerator="cpu",
        precision=precision,  # type: ignore[arg-type]
        max_epochs=epochs,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    began = time.perf_counter()
    trainer.fit(module, data)
    seconds = time.perf_counter() - began
    tested = {name.removeprefix("test/"): value for name, value in trainer.test(module, data, verbose=False)[0].items()}
    baseline = baselines_of(data, "test")
    assert baseline is not None
    return {
        **tested,
        "trained": count_trained(module.network),
        "seconds": round(seconds, 1),
        "texts": sum(data.counts("test").values()),
        **baseline._asdict(),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row for each way to train, the mean over the seeds and the range."""
    lines = ["| trained | parameters | seconds | pre-trained | random |", "|---|---|---|---|---|"]
    for way in dict.fromkeys(run["way"] for run in runs):
        some = [run for run in runs if run["way"] == way]
        cells = [_percent([run["accuracy"] for run in some if run["start"] == start]) for start in STARTS]
        seconds = statistics.mean(run["seconds"] for run in some)
        lines.append(f"| {way} | {some[0]['trained']:,} | {seconds:.0f} | {' | '.join(cells)} |")
    by_seed = {run["seed"]: run for run in runs}.values()
    lines.append(f"| Naive Bayes | | | {_percent([run['naive_bayes'] for run in by_seed])} | |")
    texts = statistics.mean(run["texts"] for run in by_seed)
    return "\n".join(
        [*lines, "", f"Test accuracy on {texts:.0f} texts, mean of {len(by_seed)} seeds (lowest to highest)."]
    )


def _percent(values: list[float]) -> str:
    if not values:
        return ""
    return f"{100 * statistics.mean(values):.1f} % ({100 * min(values):.1f} to {100 * max(values):.1f})"


if __name__ == "__main__":
    main()
