"""Say which label each of some texts has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from llm.data.labelled import encode_text
from llm.errors import ConfigError, GenerationError
from llm.model import Classifier
from llm.tokenizers import Tokenizer


class Classification(NamedTuple):
    """What a classifier says of a text."""

    label: str
    """The most probable label."""
    probabilities: dict[str, float]
    """Of every label, in the order of the logits."""
    ids: list[int]
    """The token ids that were read."""


@torch.no_grad()
def classify_texts(
    model: Classifier, tokenizer: Tokenizer, texts: Sequence[str | Sequence[int]], batch_size: int = 8
) -> Iterator[Classification]:
    """The label of each text, in order. What is beyond the context is not read.

    Args:
        model: a classifier, in eval mode.
        tokenizer: the classifier's.
        texts: texts, or the token ids of each.
        batch_size: texts in a batch, padded on the right to the longest; no effect on results.

    Raises:
        ConfigError: `batch_size` is less than 1.
        TokenizerError: a text is empty, or can't be encoded.
        GenerationError: the logits are NaN or infinite.
    """
    if batch_size < 1:
        raise ConfigError(f"batch_size must be at least 1, got {batch_size}")
    device, length = next(model.parameters()).device, model.config.context_length
    rows = [encode_text(tokenizer, text, length) if isinstance(text, str) else list(text)[:length] for text in texts]
    for start in range(0, len(rows), batch_size):
        batch = [torch.tensor(row) for row in rows[start : start + batch_size]]
        lengths = torch.tensor([len(row) for row in batch], device=device)
        ids = torch.nn.utils.rnn.pad_sequence(batch, batch_first=True).to(device)  # B times (T) -> (B, T)
        probabilities = model(ids, lengths).float().softmax(-1).cpu()  # (B, T) -> (B, N)
        if not bool(probabilities.isfinite().all()):
            raise GenerationError("the model's logits are NaN or infinite: its weights contain NaN/Inf")
        for row, found in zip(rows[start : start + batch_size], probabilities, strict=True):
            by_label = dict(zip(model.config.labels, found.tolist(), strict=True))
            yield Classification(max(by_label, key=by_label.__getitem__), by_label, row)
