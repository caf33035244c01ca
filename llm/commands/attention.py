"""`python -m llm attention`."""

from __future__ import annotations

import argparse
import sys

from llm.commands.options import add_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("--ckpt", required=True, help="the checkpoint, best, last, or anything that import reads")
    parser.add_argument("--text", required=True, help="the text whose attention is written, or what is translated")
    parser.add_argument("--out", default="attention.html", help="the page, one HTML file (%(default)s)")
    parser.add_argument("--tokens", type=int, default=64, help="maximum number of tokens (%(default)s)")
    add_device(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the page of one text.

    Raises:
        LLMError: the checkpoint or the text can't be used.
    """
    from pathlib import Path

    from llm.commands.devices import find_device
    from llm.commands.targets import refuse_source
    from llm.errors import ConfigError
    from llm.generation.translating import Translator
    from llm.inspection import align, inspect
    from llm.model import EncoderDecoder
    from llm.pretrained import load, read_source_tokenizer
    from llm.runtime.files import size_text

    out = Path(arguments.out)
    if out.is_dir():
        raise ConfigError(f"{arguments.out!r} is a folder; give --out the name of a file, such as attention.html")
    refuse_source(arguments.ckpt, arguments.out)
    loaded = load(arguments.ckpt, find_device(arguments.device))
    if isinstance(loaded.model, EncoderDecoder):
        translator = Translator(loaded.model, loaded.tokenizer, read_source_tokenizer(arguments.ckpt))
        align(translator, arguments.text, title=f"Alignment of {Path(arguments.ckpt).name}").page(out)
        print(f"open {out} in a browser ({size_text(out.stat().st_size)}; it needs no network)")
        return
    report = inspect(loaded, arguments.text, tokens=arguments.tokens)
    report.title = f"Attention of {Path(arguments.ckpt).name}"
    for note in report.notes:
        print(f"warning: {note}", file=sys.stderr)
    report.page(out)
    print(f"open {out} in a browser ({size_text(out.stat().st_size)}; it needs no network)")
