"""The Transformer that translates: an encoder, and a decoder whose blocks attend to what it has read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from llm.config import TransformerConfig
from llm.errors import ConfigError
from llm.model.block import Block, build_blocks, initialize
from llm.model.cross_attention import CrossAttention, build_cross_attention
from llm.model.embeddings import Embeddings, Head
from llm.model.encoder_decoder import EncoderDecoder, Memory
from llm.model.gpt import refuse_too_long
from llm.model.norm import build_norm
from llm.model.padding import attention_mask, is_real
from llm.model.stages import AttentionHook, Hook


class DecoderBlock(Block):
    """A block with attention to a memory between its attention and its MLP (Vaswani et al. 2017, figure 1).

    Args:
        config: the architecture.
        layer: its number, counted from 0.
    """

    def __init__(self, config: TransformerConfig, layer: int = 0) -> None:
        super().__init__(config, layer)
        self.cross_norm = build_norm(config)
        self.cross_attention = build_cross_attention(config)
        self.cross_dropout = nn.Dropout(config.dropout)

    def forward(  # type: ignore[override]
        self, x: Tensor, memory: Tensor, memory_mask: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """`(B, T, C)` and a memory `(B, S, C)` -> `(B, T, C)`; `memory_mask` says what of it each query may see."""
        x = self.join_attention(x, self.attention(self.before_attention(x), mask))
        return self.after_cross(x, self.cross_attention(self.before_cross(x), memory_mask, memory))

    def before_cross(self, x: Tensor) -> Tensor:
        """What the attention to the memory reads: `(B, T, C)` -> `(B, T, C)`."""
        return self.cross_norm(x) if self.norm_first else x

    def after_cross(self, x: Tensor, attended: Tensor) -> Tensor:
        """What follows once the input and its attention to the memory are there: twice `(B, T, C)` -> `(B, T, C)`."""
        return self.after_mlp(self._join(x, self.cross_dropout(attended), self.cross_norm))

    def stages(self, name: str) -> Iterator[Hook | AttentionHook]:
        """What is worth a look, under the block's name."""
        yield from self.attention_stages(name)
        cross = AttentionHook(f"{name} / cross", self.cross_attention, kind="cross")
        cross_norm = Hook(f"{name} / cross norm", self.cross_norm)
        yield from (cross_norm, cross) if self.norm_first else (cross, cross_norm)
        yield from self.mlp_stages(name)


@dataclass(frozen=True)
class LayerState:
    """What one block of the decoder keeps.

    Args:
        keys: (B, K, T, D) of the tokens read so far.
        values: (B, K, T, D).
        memory_keys: (B, K, S, D) of the source; computed once.
        memory_values: (B, K, S, D).
    """

    keys: Tensor
    values: Tensor
    memory_keys: Tensor
    memory_values: Tensor


@dataclass(frozen=True)
class TransformerState:
    """The keys and values of every block, and which keys of the source are real, (B, 1, 1, S); None where all are."""

    layers: tuple[LayerState, ...]
    memory_mask: Tensor | None

    def select(self, rows: Tensor) -> Self:
        """The state of these rows, (R), in this order."""
        layers = (
            LayerState(*(part[rows] for part in (at.keys, at.values, at.memory_keys, at.memory_values)))
            for at in self.layers
        )
        return type(self)(tuple(layers), None if self.memory_mask is None else self.memory_mask[rows])


class Transformer(EncoderDecoder):
    """The Transformer (Vaswani et al. 2017) of the same blocks as `GPT` and `Encoder`.

    Args:
        config: the architecture.
    """

    config: TransformerConfig

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.source_embeddings = Embeddings(config.encoder)
        self.encoder_blocks = build_blocks(config.encoder)
        self.encoder_norm = build_norm(config) if config.norm_first else nn.Identity()
        self.embeddings = Embeddings(config)
        if config.share_embeddings:
            self.source_embeddings.token.weight = self.embeddings.token.weight
        self.blocks = nn.ModuleList(DecoderBlock(config, layer) for layer in range(config.n_layer))
        self.final_norm = build_norm(config) if config.norm_first else nn.Identity()
        self.head = Head(config)
        if config.tie_head:
            self.head.weight = self.embeddings.token.weight
        _initialize(self, config)

    def encode(self, source: Tensor, source_lengths: Tensor | None = None) -> Memory:
        """Read the source `(B, S)`, of which `source_lengths` (B) tokens are real: states `(B, S, C)`.

        Raises:
            ConfigError: S is longer than the context.
        """
        refuse_too_long(source, self.config)
        mask = _memory_mask(source, source_lengths)
        x = self.source_embeddings(source)  # (B, S) -> (B, S, C)
        for block in self.encoder_blocks:
            x = block(x, mask)  # (B, S, C) -> (B, S, C)
        return Memory(self.encoder_norm(x), source_lengths)

    def decode(self, ids: Tensor, memory: Memory) -> Tensor:
        """What the head reads, of the begin token and the target: `(B, T)` -> `(B, T, C)`."""
        memory_mask = _memory_mask(memory.states, memory.lengths)
        x = self.embeddings(ids)  # (B, T) -> (B, T, C)
        for block in self.blocks:
            x = block(x, memory.states, memory_mask)  # (B, T, C) -> (B, T, C)
        return self.final_norm(x)

    def start(self, memory: Memory) -> TransformerState:
        """The state before the first token: the keys and values of the source, for every block."""
        states, layers = memory.states, []
        for block in self.blocks:
            assert isinstance(block, DecoderBlock)
            cross = block.cross_attention
            if isinstance(cross, CrossAttention):
                key, value = cross.project_memory(states)
            else:
                _, key, value = cross.project(states, memory=states)
            nothing = states.new_zeros(len(states), self.config.kv_heads, 0, self.config.head_dim)  # (B, K, 0, D)
            layers.append(LayerState(nothing, nothing, key, value))
        return TransformerState(tuple(layers), _memory_mask(states, memory.lengths))

    def step(self, ids: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """Read one more token in each row, (B): the logits of the next, (B, V), and the state with it.

        Raises:
            ConfigError: the context is full.
        """
        position = state.layers[0].keys.shape[2]
        if position >= self.config.context_length:
            raise ConfigError(f"the target has reached the context of {self.config.context_length} tokens")
        x = self.embeddings(ids[:, None], torch.tensor([position], device=ids.device))  # (B) -> (B, 1, C)
        mask = torch.ones(1, position + 1, dtype=torch.bool, device=ids.device)
        layers = []
        for block, kept in zip(self.blocks, state.layers, strict=True):
            assert isinstance(block, DecoderBlock)
            x, layer = _step_block(block, x, kept, mask, state.memory_mask, position)
            layers.append(layer)
        logits = self.head(self.final_norm(x))[:, 0]  # (B, 1, C) -> (B, V)
        return logits, TransformerState(tuple(layers), state.memory_mask)

    @property
    def output_layer(self) -> Head:
        """The head."""
        return self.head

    def stages(self) -> Iterator[Hook | AttentionHook]:
        """What is worth a look, in the order in which it runs."""
        for hook in self.source_embeddings.stages():
            yield Hook(f"source {hook.name}", hook.module, hook.axes.replace("T", "S"))
        for layer, block in enumerate(self.encoder_blocks):
            yield from _of_the_source(block.stages(f"encoder block {layer}"))  # type: ignore[operator]
        yield Hook("memory", self.encoder_norm, "(B, S, C)")
        yield from super().stages()
        yield Hook("logits", self.head, "(B, T, V)")


def _initialize(network: Transformer, config: TransformerConfig) -> None:
    """Start the weights such that a layer's output varies as its input does (Glorot and Bengio 2010, eq. 16).

    As the Transformer's authors do: what reads a source learns sooner to look at it than from GPT-2's weights, which
    are small for so narrow a model. Embeddings that are scaled start with a variance of 1.
    """
    initialize(network, config)
    for name, module in network.named_modules():
        is_zero = name.endswith("projection") and config.projection_init == "zero"
        if isinstance(module, nn.Linear) and module is not network.head and not is_zero:
            nn.init.xavier_uniform_(module.weight)
        if isinstance(module, Embeddings) and module.scale is not None:
            nn.init.normal_(module.token.weight, std=1 / module.scale)
            if module.position is not None:
                nn.init.normal_(module.position.weight)


def _step_block(
    block: DecoderBlock, x: Tensor, kept: LayerState, mask: Tensor, memory_mask: Tensor | None, position: int
) -> tuple[Tensor, LayerState]:
    """One block on one token in each row: `(B, 1, C)` -> `(B, 1, C)`, and what it keeps."""
    attention, cross = block.attention, block.cross_attention
    positions = torch.tensor([position], device=x.device)
    query, key, value = attention.project(block.before_attention(x), positions)  # (B, H, 1, D), 2 x (B, K, 1, D)
    keys, values = torch.cat([kept.keys, key], 2), torch.cat([kept.values, value], 2)  # (B, K, T, D)
    seen = attention.within_window(mask, positions)
    x = block.join_attention(x, attention.output(attention.context(query, keys, values, seen)))
    asking = block.before_cross(x)
    if isinstance(cross, CrossAttention):
        query = cross.project_query(asking)
    else:
        query, _, _ = cross.project(asking)
    context = cross.context(query, kept.memory_keys, kept.memory_values, memory_mask)
    x = block.after_cross(x, cross.output(context))
    return x, LayerState(keys, values, kept.memory_keys, kept.memory_values)


def _memory_mask(source: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Which positions of a source, (B, S) or (B, S, C), may be seen: (B, 1, 1, S); None where all may."""
    if lengths is None:
        return None
    return attention_mask(is_real(lengths, source.shape[1]), 1, is_causal=False)


def _of_the_source(hooks: Iterator[Hook | AttentionHook]) -> Iterator[Hook | AttentionHook]:
    for hook in hooks:
        if isinstance(hook, AttentionHook):
            yield AttentionHook(hook.name, hook.module, kind="source")
        else:
            yield Hook(hook.name, hook.module, hook.axes.replace("T", "S"), hook.of_input)
