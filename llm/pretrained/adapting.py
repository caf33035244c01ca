"""Adapt weights to a run with slightly different settings: a shorter context, other padding, an untied head."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from llm.config import ClassifierConfig, EncoderConfig, GPTConfig
from llm.errors import ConfigError
from llm.pretrained.base import Pretrained
from llm.pretrained.layout import TOKEN, Tensors, head_name, vocabulary_tables

_FREE = ("dropout", "context_length", "vocab_multiple", "tie_head", "projection_init")
"""Settings in which a run may differ from the weights that it starts from."""
_NOISE = 0.1
"""How far the rows of new tokens are from the mean, as a fraction of the table's standard deviation."""


def adapt(found: Pretrained, config: GPTConfig) -> Pretrained:
    """The same weights for a slightly different architecture.

    A shorter context keeps the first positions. Another `vocab_multiple` changes the rows that are padding, and no
    logit. A head that was shared may get its own copy. Dropout has no weights, and initialization does not matter
    where weights are given. A classifier takes a head only from one with the same labels.

    Args:
        found: the weights as they are.
        config: of the run.

    Raises:
        ConfigError: anything else differs, or the context is longer than the weights' own.
    """
    theirs = found.config
    different = differences(theirs, config)
    if different:
        raise ConfigError(f"the pretrained weights are of another architecture: {', '.join(different)}")
    weights: Tensors = dict(found.weights)
    position = "embeddings.position.weight"
    if position in weights:  # rotary positions have no table
        weights[position] = weights[position][: config.context_length]
    weights[TOKEN] = _pad(weights[TOKEN], config)
    if isinstance(config, ClassifierConfig):  # its head has a row for each label
        if getattr(theirs, "labels", None) != config.labels:
            weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        return dataclasses.replace(found, config=config, weights=weights)
    head = head_name(config)
    for name in vocabulary_tables(config)[1:]:
        weights[name] = _pad(weights[name], config)
    if config.tie_head:
        weights[head] = weights[TOKEN]
    elif theirs.tie_head:
        weights[head] = weights[head].clone()
    return dataclasses.replace(found, config=config, weights=weights)


def grow_vocabulary(found: Pretrained, vocab_size: int) -> Pretrained:
    """The same weights with rows for more tokens, behind the others.

    A new row is the mean of the others and a little noise, so that the probabilities of the old tokens hardly change
    (Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html).

    Args:
        found: the weights as they are.
        vocab_size: V, with the new tokens; nothing changes if it is no more than theirs.
    """
    old = found.config.vocab_size
    if vocab_size <= old:
        return found
    config = dataclasses.replace(found.config, vocab_size=vocab_size)
    weights: Tensors = dict(found.weights)
    for name in vocabulary_tables(config):
        kept = found.weights[name][:old]  # (V, C), of a bias (V)
        # Of NumPy, whose bits are those of every processor: a checkpoint may leave these rows out.
        noise = np.random.default_rng(0).standard_normal((vocab_size - old, *kept.shape[1:])).astype(np.float32)
        new = kept.float().mean(0) + _NOISE * kept.float().std() * torch.from_numpy(noise)  # (C) + (new V, C)
        weights[name] = _pad(torch.cat([kept, new.to(kept.dtype)]), config)
    if config.tie_head:
        weights[head_name(config)] = weights[TOKEN]
    return dataclasses.replace(found, config=config, weights=weights)


def differences(theirs: GPTConfig, config: GPTConfig) -> list[str]:
    """What keeps weights of one architecture from being adapted to another, each with both values."""
    different = [
        f"{field.name} ({getattr(theirs, field.name, None)} in the weights, {getattr(config, field.name)} requested)"
        for field in dataclasses.fields(EncoderConfig if isinstance(config, EncoderConfig) else GPTConfig)
        if field.name not in _FREE and getattr(theirs, field.name, None) != getattr(config, field.name)
    ]
    if config.context_length > theirs.context_length:
        different.append(
            f"context_length (the weights have {theirs.context_length} positions, {config.context_length} requested; "
            "set data.context_length to that or less)"
        )
    if config.tie_head and not theirs.tie_head and not isinstance(config, ClassifierConfig):
        different.append("tie_head (the weights have a head of their own)")
    return different


def _pad(table: Tensor, config: GPTConfig) -> Tensor:
    """A table with the requested rows of padding, zeros where there were none: `(rows, ...)` -> `(padded V, ...)`."""
    padded = table.new_zeros(config.padded_vocab_size, *table.shape[1:])
    if len(table) == len(padded):
        return table
    kept = min(len(table), len(padded))
    padded[:kept] = table[:kept]
    return padded
