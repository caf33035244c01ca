"""Remember keys and values, so that each new token costs one position and not the whole text again.

A causal model never changes its mind about the past: the keys and values of a position depend on earlier tokens only.
`prefill` runs a model over the prompts and keeps them; `decode` runs it over what comes next and adds to them. Both
use the blocks' own parts, so their logits are those of `GPT.forward`.

Prompts of unequal length are padded at their end. A causal position never sees what comes after it, so no real token
sees the padding, each row counts its positions from 0 as it would alone, and its first new tokens overwrite it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from llm.errors import ConfigError
from llm.model.block import Block
from llm.model.gpt import GPT


class KeyValueCache:
    """The keys and values of every layer, in memory of a fixed size.

    Args:
        model: a GPT whose attention is causal.
        n_rows: B, texts side by side.
        n_slots: S, the most tokens that a text can have: at most the model's context length.

    Raises:
        ConfigError: the attention is not causal, or the context is not that long.
    """

    def __init__(self, model: GPT, n_rows: int, n_slots: int) -> None:
        config, weight = model.config, model.head.weight
        if not config.is_causal:
            setting = " with causal false" if config.causal is False else ""
            raise ConfigError(
                f"{config.attention} attention{setting} sees later tokens, so that no keys and values stay what they "
                "were: generate without a cache"
            )
        if n_slots > config.context_length:
            raise ConfigError(f"a cache of {n_slots} tokens is longer than the context of {config.context_length}")
        self.n_slots = n_slots
        shape = (n_rows, config.kv_heads, n_slots, config.head_dim)  # (B, K, S, D)
        self.keys = [weight.new_zeros(shape) for _ in range(config.n_layer)]
        self.values = [weight.new_zeros(shape) for _ in range(config.n_layer)]

    def layers(self, model: GPT) -> Iterator[tuple[Block, Tensor, Tensor]]:
        """Each block of the model with its keys and values."""
        for block, keys, values in zip(model.blocks, self.keys, self.values, strict=True):
            assert isinstance(block, Block)
            yield block, keys, values


def prefill(model: GPT, cache: KeyValueCache, ids: Tensor, lengths: Tensor) -> Tensor:
    """Read the prompts.

    Args:
        model: the model that the cache was made for, in eval mode.
        cache: what it held is overwritten.
        ids: (B, T) the prompts, padded at their end with any token.
        lengths: (B) how many tokens each prompt really has, at least 1.

    Returns:
        (B, V) the logits after the last token of each prompt.
    """
    B, T = ids.shape
    x = model.embeddings(ids)  # (B, T) -> (B, T, C)
    for block, keys, values in cache.layers(model):
        query, key, value = block.attention.project(block.before_attention(x))
        keys[:, :, :T], values[:, :, :T] = key, value
        x = block.after_attention(x, block.attention.output(block.attention.context(query, key, value)))
    last = x[torch.arange(B, device=x.device), lengths - 1]  # (B, T, C) -> (B, C)
    return model.head(model.final_norm(last))  # (B, C) -> (B, V)


def decode_block(block: Block, x: Tensor, keys: Tensor, values: Tensor, positions: Tensor, mask: Tensor) -> Tensor:
    """One block of `decode`: `(B, T, C)` -> `(B, T, C)`; adds to `keys` and `values`, `(B, K, S, D)`."""
    query, key, value = block.attention.project(block.before_attention(x), positions)  # (B, H, T, D), 2 x (B, K, T, D)
    rows = torch.arange(len(x), device=x.device)[:, None]  # (B, 1)
    keys[rows, :, positions], values[rows, :, positions] = key.transpose(1, 2), value.transpose(1, 2)  # (B, T, K, D)
    seen = block.attention.within_window(mask[:, None], positions)  # (B, T, S) -> (B, 1, T, S)
    context = block.attention.context(query, keys, values, seen)
    return block.after_attention(x, block.attention.output(context))


BlockStep = Callable[[Block, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def decode(
    model: GPT, cache: KeyValueCache, ids: Tensor, positions: Tensor, block_step: BlockStep = decode_block
) -> Tensor:
    """Read some more tokens in each row, most often one.

    Args:
        model: the model that the cache was made for, in eval mode.
        cache: holds each row's tokens before its first position; what is read is added.
        ids: (B, T) the tokens.
        positions: (B, T) where each stands in its row, counted from 0.
        block_step: another form of `decode_block`, such as a compiled one.

    Returns:
        (B, T, V) the logits after each of them.
    """
    x = model.embeddings(ids, positions)  # (B, T) -> (B, T, C)
    mask = torch.arange(cache.n_slots, device=ids.device) <= positions[..., None]  # (S) <= (B, T, 1) -> (B, T, S)
    for block, keys, values in cache.layers(model):
        x = block_step(block, x, keys, values, positions, mask)  # (B, T, C) -> (B, T, C)
    return model.head(model.final_norm(x))  # (B, T, C) -> (B, T, V)
