"""What `validate` and `test` say before they begin: which model they measure, on which text."""

from __future__ import annotations

import logging
from typing import Any

from llm.data import TextDataModule
from llm.preflight import Start

log = logging.getLogger("llm")


def say_what_is_measured(config: Any, subcommand: str, start: Start, datamodule_class: type) -> None:
    """Which model, on which text.

    Args:
        config: of the command.
        subcommand: `validate` or `test`.
        start: the step of the model.
        datamodule_class: of the task.
    """
    model = f"{config.ckpt_path}, step {start.step:,}" if config.ckpt_path else config.model.get("pretrained")
    log.info("model:       %s", model)
    data = config.data
    if "corpus" in data:
        text = (data.test_corpus if subcommand == "test" else None) or data.validation_corpus
        log.info("text:        %s", text or f"{data.corpus}, {_held_out_part(data, subcommand, datamodule_class)}")


def _held_out_part(data: Any, subcommand: str, datamodule_class: type) -> str:
    """Which part of the training corpus is measured on."""
    fraction = data.get("test_fraction") if subcommand == "test" else None
    if data.corpus in getattr(datamodule_class, "own_splits", ()):
        return "what is held out of it"
    part = "the last " if issubclass(datamodule_class, TextDataModule) else ""
    return f"{part}{fraction or data.validation_fraction:.0%} of it"
