"""The text that is looked at while a model trains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from llm.data import MaskedDataModule
from llm.errors import ConfigError
from llm.inspection.probe import longest_window
from llm.inspection.report import choose_window
from llm.tasks.base import TaskModule

_TRAINING_TOKENS = 1_000_000


@dataclass(frozen=True)
class Subject:
    """A text that is looked at.

    Args:
        ids: its token ids; none before it is chosen.
        notes: how it differs from what was asked for.
        originals: the token ids before some were masked, of a text with masked tokens.
    """

    ids: Sequence[int] = ()
    notes: Sequence[str] = ()
    originals: Sequence[int] | None = None


def choose_subject(trainer: L.Trainer, module: TaskModule, text: str | None, most: int) -> Subject:
    """The text of a run.

    Args:
        trainer: of the run.
        module: what it trains.
        text: what to look at. Default: a sample of the data module's.
        most: tokens of it at the most.

    Raises:
        ConfigError: there is no tokenizer to read the text with.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    ids: Sequence[int]
    if text is None and datamodule is not None:
        ids = datamodule.sample_ids(min(most, longest_window(module.network.config)))
    elif module.tokenizer is None:
        raise ConfigError("this run has no tokenizer to read the text with")
    else:
        encode = module.tokenizer.encode_prompt if module.network.predicts_next else module.tokenizer.encode_whole
        ids = encode(text or "")
    shown, notes = choose_window(ids, module.network, most)
    if isinstance(datamodule, MaskedDataModule) and datamodule.tokenizer.mask_id not in shown:
        return Subject(datamodule.masked_sample(shown), notes, shown)
    return Subject(shown, notes)


def training_tokens(trainer: L.Trainer, subject: Subject) -> Tensor:
    """Token ids (N) that a run trains on, a million at the most; where it doesn't say, those that are looked at."""
    tokens = getattr(getattr(trainer, "datamodule", None), "train_tokens", None)
    if tokens is None:
        return torch.tensor(subject.ids)
    return torch.from_numpy(np.asarray(tokens[:_TRAINING_TOKENS]).astype(np.int64))
