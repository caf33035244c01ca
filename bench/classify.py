"""What pre-training and the choice of what is trained are worth to a classifier, beside Naive Bayes.

    python -m bench.classify --corpus sms-spam --text 'texts/*.txt'

A GPT is pre-trained on a text that holds none of the labelled ones (the settings of `configs/modern.yaml`, 2,048 byte
pairs learned from the text), or taken from `--pretrained`. From it, and from random weights of the same architecture,
a classifier is trained in four ways: the head alone, the last block, all, and LoRA. Every text counts once, and every
label has as many texts (`undersample`); 70 % train, 20 % test. Each seed has a split, an order and random weights of
its own. The last step is validated (10 %) and tested (20 %). Of several `--dropout` and `--epochs`, the table shows
for each row what is best on the validation texts of all splits; the test texts choose nothing. Naive Bayes is counted
on the same splits. Times are the processor's, on one thread.

Runs are kept in `--folder` as soon as they are made, and those that are there are not made again: a command that was
interrupted goes on when it is given again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch

from bench._trainer import quiet_trainer
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
CHOSEN = ("dropout", "epochs")
"""The settings of which there may be several, to be chosen from on the validation texts."""
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
    add("--steps", type=int, default=1200, help="of pre-training (%(default)s)")
    add("--epochs", type=int, nargs="+", default=[8], help="of each classifier (%(default)s)")
    add("--dropout", type=float, nargs="+", default=[0.1, 0.3], help="in each classifier (%(default)s)")
    add("--seeds", type=int, default=3, help="runs of each kind (%(default)s)")
    add("--starts", nargs="+", choices=STARTS, default=list(STARTS), help="which weights to begin with (both)")
    add("--ways", nargs="+", choices=list(RATES), default=list(RATES), help="what is trained (all four)")
    add("--folder", type=Path, default=Path("runs/bench-classify"), help="where runs are kept (%(default)s)")
    add("--precision", default="32-true", help="Lightning's name for it (%(default)s)")
    add("--tiny", action="store_true", help="a few steps, to see that it runs")
    add("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.corpus, arguments.steps, arguments.epochs, arguments.seeds = "messages-validation", 2, [1], 1
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in ("llm", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    arguments.pretrained = arguments.pretrained or pretrain(
        arguments.text, arguments.steps, arguments.folder, arguments.precision
    )
    kept = arguments.folder / "runs.jsonl"
    runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
    shared = {name: getattr(arguments, name) for name in ("corpus", "pretrained", "precision")}
    grid = [arguments.ways, arguments.starts, arguments.epochs, arguments.dropout, range(arguments.seeds)]
    asked = []
    for way, start, epochs, dropout, seed in itertools.product(*grid):
        wanted = {**shared, "start": start, "way": way, "epochs": epochs, "dropout": dropout, "seed": seed}
        run = next((run for run in runs if wanted.items() <= run.items()), None)
        if run is None:
            run = {**wanted, **classify(**wanted)}
            with kept.open("a") as file:
                print(json.dumps(run), file=file)
        asked.append(run)
    print(json.dumps({"runs": asked}, indent=1) if arguments.json else table(asked))


def pretrain(text: list[str], steps: int, folder: Path, precision: str = "32-true") -> str:
    """The path of a checkpoint of a language model of that text."""
    target = folder / "pretrain" / "checkpoints" / "last.ckpt"
    if not target.is_file():
        options: dict[str, object] = {
            "data.corpus": json.dumps(text),
            "data.tokenizer.kind": "bpe",
            "data.tokenizer.vocab_size": 2048,
            "data.batch_size": BATCH,
            "data.context_length": CONTEXT,
            "data.stride": CONTEXT,
            "data.validation_fraction": 0.03,
            "trainer.max_steps": steps,
            "trainer.val_check_interval": max(1, steps // 2),
            "trainer.precision": precision,
            "trainer.logger.init_args.save_dir": folder,
            "trainer.logger.init_args.name": "",
            "trainer.logger.init_args.version": "pretrain",
            "inspect.every": 0,
            "samples.every": 0,
        }
        if status := train(["fit", "--config", str(MODERN), *(f"--{key}={value}" for key, value in options.items())]):
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
    trainer = quiet_trainer(precision=precision, max_epochs=epochs)
    began = time.process_time()
    trainer.fit(module, data)
    seconds = time.process_time() - began
    trainer.limit_val_batches = 1.0
    validated = trainer.validate(module, data, verbose=False)[0]
    tested = {name.removeprefix("test/"): value for name, value in trainer.test(module, data, verbose=False)[0].items()}
    baseline = baselines_of(data, "test")
    assert baseline is not None
    return {
        **tested,
        **{name.replace("/", "_"): validated[name] for name in ("validation/loss", "validation/accuracy")},
        "trained": count_trained(module.network),
        "seconds": round(seconds, 1),
        "texts": sum(data.counts("test").values()),
        **baseline._asdict(),
    }


def table(runs: list[dict[str, Any]]) -> str:
    """Markdown: a row for each way to train and each start, as chosen on the validation texts; means over the seeds."""
    lines = [
        "| trained | from | parameters | processor seconds | dropout, epochs | validation | test |",
        "|---|---|---|---|---|---|---|",
    ]
    for way, start in dict.fromkeys((run["way"], run["start"]) for run in runs):
        tried: dict[tuple[float, int], list[dict[str, Any]]] = {}
        for run in runs:
            if (run["way"], run["start"]) == (way, start):
                tried.setdefault(tuple(run[name] for name in CHOSEN), []).append(run)
        chosen, best = max(
            tried.items(), key=lambda item: (_mean(item[1], "validation_accuracy"), -_mean(item[1], "validation_loss"))
        )
        settings = ", ".join(str(value) for value in chosen) + (f" (of {len(tried)})" if len(tried) > 1 else "")
        accuracies = [_percent([run[name] for run in best]) for name in ("validation_accuracy", "accuracy")]
        cells = [way, start, f"{best[0]['trained']:,}", f"{_mean(best, 'seconds'):.0f}", settings, *accuracies]
        lines.append(f"| {' | '.join(cells)} |")
    by_seed = list({run["seed"]: run for run in runs}.values())
    lines.append(f"| Naive Bayes | | | | | | {_percent([run['naive_bayes'] for run in by_seed])} |")
    texts = _mean(by_seed, "texts")
    return "\n".join(
        [*lines, "", f"Accuracy, mean of {len(by_seed)} seeds (lowest to highest); {texts:.0f} test texts each."]
    )


def _mean(runs: list[dict[str, Any]], name: str) -> float:
    return statistics.mean(run[name] for run in runs)


def _percent(values: list[float]) -> str:
    return f"{100 * statistics.mean(values):.1f} % ({100 * min(values):.1f} to {100 * max(values):.1f})"


if __name__ == "__main__":
    main()
