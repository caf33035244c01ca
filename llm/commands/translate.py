"""`python -m llm translate`."""

from __future__ import annotations

import argparse
import json

from llm.commands.options import add_device, add_json
from llm.commands.standard_input import add_text_arguments, naming, texts_of
from llm.config.tasks import TRANSLATE
from llm.errors import ConfigError, TokenizerError

TASK = TRANSLATE
"""Of the checkpoints that it is for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add = parser.add_argument
    add("--ckpt", required=True, help="the checkpoint of a model that translates, best or last")
    add_text_arguments(parser, "a sentence to translate", "sentences")
    add("--beam", type=int, default=1, help="hypotheses that the search keeps; 1 is greedy (%(default)s)")
    add("--length_penalty", type=float, default=0.6, help="0 to 1: how far a beam favours length (%(default)s)")
    add("--batch_size", type=int, default=64, help="sentences in a batch; no effect on results (%(default)s)")
    add_json(parser)
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the translation of each sentence on a line; a blank line has an empty one.

    Raises:
        LLMError: the checkpoint, a sentence or an option can't be used.
    """
    from llm.commands.devices import find_device
    from llm.generation.searching import Hypothesis
    from llm.generation.translating import Translation, load_translator

    if arguments.batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {arguments.batch_size}")
    if arguments.text is not None and not any(text.strip() for text in arguments.text):
        raise TokenizerError("there is nothing to translate in an empty text; give a sentence")
    texts = texts_of(arguments, "translate", "sentences to translate", keep_blank=True)
    translator = load_translator(arguments.ckpt, find_device(arguments.device))
    for where, text in texts:  # all of them before the first is translated
        if text.strip():
            with naming(where):
                translator.encode(text)
    nothing = Translation("", Hypothesis([], log_probability=0.0, ended=True), score=0.0)
    for part in _batches(texts, arguments.batch_size):
        wanted = [text for text in part if text.strip()]
        found = iter(translator.translate(wanted, arguments.beam, arguments.length_penalty, arguments.batch_size))
        for text in part:
            translation = next(found) if text.strip() else nothing
            result = {"source": text, **translation.to_dict()}
            print(json.dumps(result, ensure_ascii=False) if arguments.json else translation.text, flush=True)


def _batches(texts: list[tuple[str, str]], size: int) -> list[list[str]]:
    return [[text for _, text in texts[start : start + size]] for start in range(0, len(texts), size)]
