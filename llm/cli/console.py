"""What a command line prints, and what it leaves out."""

from __future__ import annotations

import argparse
import logging
import re
import sys
import warnings
from pathlib import Path

from jsonargparse import DefaultHelpFormatter
from tqdm import tqdm

from llm.cli.refusals import can_be_named
from llm.runtime.process import rank

log = logging.getLogger("llm")


def fail(message: str, status: int) -> int:
    """Print an error on one line; gives the exit status."""
    which = f" (process {rank()})" if rank() else ""
    print(f"error{which}: {' '.join(message.split())}", file=sys.stderr)
    return status


_KNOWN_CLASSES = ", known subclasses: "


class Help(DefaultHelpFormatter):
    """Leaves the lines of a description as they are, if it has several; of Lightning's own flags says the essence."""

    def _get_help_string(self, action: argparse.Action) -> str:
        whole = super()._get_help_string(action)
        if not action.dest.startswith("trainer.") or action.dest.endswith(".help"):
            return whole
        _, _, classes = whole.partition(_KNOWN_CLASSES)
        # A sentence ends before a capital letter, not after "i.e."; Sphinx's roles are left out.
        sentence = re.split(r"\.\s+(?=[A-Z])", (action.help or "").strip())[0].rstrip(".").replace("``", "`")
        sentence = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(sentence.split()))
        default = getattr(action.default, "class_path", "").rpartition(".")[2] or "%(default)s"
        named = ", ".join(path.rpartition(".")[2] for path in classes.rstrip(")").split(", ") if can_be_named(path))
        return f"{sentence}. (default: {default}{'; one of ' if named else ''}{named})"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text.strip():
            return super()._fill_text(text, width, indent)
        return "".join(f"{indent}{line}\n" for line in text.splitlines())


class _AboveTheBar(logging.Handler):
    """Writes messages to standard error without tearing the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        prefix = "warning: " if record.levelno >= logging.WARNING else ""
        tqdm.write(f"{prefix}{record.getMessage()}", file=sys.stderr)


_ANY = "utilities.rank_zero"


def _is_of_a_callback(record: logging.LogRecord) -> bool:
    """Whether a message of Lightning's is a warning, or a callback's, such as `verbose` of ModelCheckpoint."""
    return record.levelno >= logging.WARNING or Path(record.pathname).parent.name == "callbacks"


def be_quiet() -> None:
    """Leave out what a user can do nothing about."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # Whoever sets a profiler or a callback wants its reports; callbacks write theirs under two names.
    reports = [logging.getLogger(f"lightning.pytorch.{name}") for name in ("profilers.profiler", "callbacks", _ANY)]
    reports[-1].addFilter(_is_of_a_callback)
    for logger in (log, *reports):
        if not logger.handlers:
            logger.addHandler(_AboveTheBar())
            logger.setLevel(logging.WARNING if rank() else logging.INFO)  # several processes say things once
            logger.propagate = False
    for message in (
        ".*does not have many workers.*",
        ".*isinstance.treespec, LeafSpec.*",
        ".*is smaller than the logging interval.*",
        ".*args parameter is intended to run from within Python.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        ".*`isinstance\\(treespec.*",
        ".*does not support bf16.*",
        ".*but have no logger configured.*",
        ".*overriding `LightningModule.optimizer_.*",
    ):
        warnings.filterwarnings("ignore", message)
