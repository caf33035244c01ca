"""`python -m llm classify`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.commands.options import add_device, add_json
from llm.commands.standard_input import add_text_arguments, naming, texts_of
from llm.config.tasks import CLASSIFY
from llm.errors import ConfigError

if TYPE_CHECKING:
    from llm.evaluation.classifying import Classification
    from llm.model import Classifier
    from llm.tokenizers import Tokenizer

_SHOWN = 60
_STRONGEST = 8


TASK = CLASSIFY
"""Of the checkpoints that it is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("--ckpt", required=True, help="the checkpoint of a classifier, best or last")
    add_text_arguments(parser, "the text", "texts")
    add("--explain", action="store_true", help="say which tokens speak for the label, and which against it")
    add("--picture", metavar="FILE", help="write that as a picture, a PNG file; for one text")
    add("--batch_size", type=int, default=8, help="texts in a batch; no effect on results (%(default)s)")
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the label of each text, with its probability, and those of the others.

    Raises:
        LLMError: the checkpoint, a text or an option can't be used.
    """
    from llm.commands.devices import find_device
    from llm.data.labelled import encode_text
    from llm.evaluation.classifying import classify_texts
    from llm.model import Classifier
    from llm.pretrained import load_of_task

    texts, rows = texts_of(arguments, "classify"), []
    model, tokenizer = load_of_task(arguments.ckpt, TASK, Classifier, find_device(arguments.device))
    if arguments.picture is not None and len(texts) != 1:
        raise ConfigError(f"--picture is for one text, got {len(texts)}")
    if arguments.picture is not None and Path(arguments.picture).is_dir():
        raise ConfigError(f"--picture {arguments.picture!r} is a folder; give it the name of a file, such as why.png")
    length = model.config.context_length
    for where, text in texts:
        with naming(where):
            rows.append(encode_text(tokenizer, text, length + 1))
        if len(rows[-1]) > length:
            print(f"warning: {where or 'the text'} is longer than the context of {length} tokens", file=sys.stderr)
    found = classify_texts(model, tokenizer, rows, arguments.batch_size)
    for (_, text), result in zip(texts, found, strict=True):
        explained = _explain(model, tokenizer, result) if arguments.explain or arguments.picture else []
        if arguments.json:
            record: dict[str, Any] = {"text": text, "label": result.label, "probabilities": result.probabilities}
            if arguments.explain:
                record["tokens"] = [{"token": token, "for": value} for token, value in explained]
            print(json.dumps(record, ensure_ascii=False), flush=True)
        else:
            _print(text, result, explained if arguments.explain else [])
        if arguments.picture is not None:
            _draw(arguments.picture, result, explained)


def _print(text: str, result: Classification, explained: list[tuple[str, float]]) -> None:
    by_chance = sorted(result.probabilities.items(), key=lambda item: -item[1])
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    print(f"{', '.join(f'{label} {chance:.1%}' for label, chance in by_chance)}: {shown}", flush=True)
    if explained:
        strongest = sorted(explained, key=lambda item: -abs(item[1]))[:_STRONGEST]
        for what, sign in (("for", 1), ("against", -1)):
            tokens = [f"{token} {value:+.2f}" for token, value in strongest if value * sign > 0]
            print(f"  {what} {result.label}: {', '.join(tokens) or 'nothing'}", flush=True)


def _explain(model: Classifier, tokenizer: Tokenizer, result: Classification) -> list[tuple[str, float]]:
    """Each token, and how much it speaks for the label."""
    import torch

    from llm.inspection.attribution import leave_one_out
    from llm.inspection.ticks import text_labels

    ids = torch.tensor(result.ids, device=next(model.parameters()).device)
    values = leave_one_out(model, ids, model.config.labels.index(result.label))
    return list(zip(text_labels(tokenizer, result.ids), values.tolist(), strict=True))


def _draw(path: str, result: Classification, explained: list[tuple[str, float]]) -> None:
    import torch

    from llm.inspection.attribution import attribution_figure
    from llm.inspection.colours import to_png
    from llm.runtime.files import write_whole

    tokens, values = zip(*explained, strict=True)
    picture = attribution_figure(torch.tensor(values), tokens, result.label, result.probabilities[result.label])
    write_whole(Path(path), to_png(picture))
