"""Look into a model for the length of one forward pass, and leave no trace.

Training runs on fused attention, which never holds the weights. The probe hooks the stages of one small batch, in
eval mode, without gradients and uncompiled; it recomputes scores and weights in float32 from the inputs that each
attention really received, through the attention's own code; then it removes its hooks.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llm.config import GPTConfig
from llm.model import GPT, Attention

_MOST_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline as it was during a capture.

    Args:
        name: such as `token embeddings`, or `block 0 / weights`.
        axes: the symbolic shape, such as `(B, T, C)`.
        tensor: what was there.
        parameters: trained values that belong to this stage alone.
    """

    name: str
    axes: str
    tensor: Tensor
    parameters: int = 0


def longest_window(config: GPTConfig) -> int:
    """The most tokens whose matrices a capture may hold: scores and weights of all heads in 256 MiB."""
    return min(config.context_length, math.isqrt(_MOST_BYTES // (2 * 4 * config.n_layer * config.heads)))


class Capture(dict[str, Stage]):
    """The stages of one forward pass, by name, in the order in which they happened."""

    def __init__(self, n_layer: int) -> None:
        super().__init__()
        self.n_layer = n_layer

    def tensor(self, name: str) -> Tensor:
        """The tensor of a stage."""
        return self[name].tensor

    def attention(self, layer: int) -> Tensor:
        """The attention weights of a layer, (B, H, T, T): rows are queries, columns keys, and rows sum to 1."""
        return self.tensor(f"block {layer} / weights")

    def after_block(self, layer: int) -> Tensor:
        """The residual stream as a block leaves it, (B, T, C)."""
        return self.tensor(f"block {layer} / residual")

    def record(self, name: str, axes: str, tensor: Tensor, parameters: int = 0) -> None:
        """Keep a stage."""
        self[name] = Stage(name, axes, tensor.detach(), parameters)


def capture(model: GPT, ids: Tensor, targets: Tensor | None = None) -> Capture:
    """Run a model once and keep every stage.

    The model's mode, its hooks, its compiled graphs and the random state are afterwards what they were before.

    Args:
        model: any GPT.
        ids: (B, T) token ids; keep B x T small, since every (T, T) matrix of every head is held.
        targets: (B, T) the tokens that came next, for the loss as a last stage.
    """
    found = Capture(model.config.n_layer)
    found.record("token ids", "(B, T)", ids)
    with eager(model, ids), torch.no_grad(), _hooks(model, found):
        logits = model.forward(ids)  # not `model(ids)`, which might be compiled
        found.record("logits", "(B, T, V)", logits, _head_parameters(model))
        if targets is not None:
            loss = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())  # (B, T, V) -> (B T, V)
            found.record("loss", "()", loss)
    return found


def attention_maps(model: GPT, ids: Tensor) -> list[Tensor]:
    """The attention weights of each layer, (B, H, T, T), and nothing else: cheaper than a whole capture.

    Args:
        model: any GPT; it is left as it was.
        ids: (B, T) token ids.
    """
    maps: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor, ...], _output: Tensor) -> None:
        assert isinstance(module, Attention)
        query, key, _ = module.project(args[0])
        maps.append(module.weights(module.scores(query.float(), key.float())).detach())

    handles = [block.attention.register_forward_hook(hook) for block in model.blocks]  # type: ignore[union-attr]
    try:
        with eager(model, ids), torch.no_grad():
            model.features(ids)
    finally:
        for handle in handles:
            handle.remove()
    return maps


@contextlib.contextmanager
def eager(model: nn.Module, ids: Tensor) -> Iterator[None]:
    """Eval mode, no autocast, and no compiled graph entered or made."""
    was_training = model.training
    model.eval()
    try:
        no_autocast = contextlib.nullcontext() if ids.is_meta else torch.autocast(ids.device.type, enabled=False)
        with torch.compiler.set_stance("force_eager"), no_autocast:
            yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def _hooks(model: GPT, found: Capture) -> Iterator[None]:
    handles: list[RemovableHandle] = []

    def record_output(module: nn.Module, name: str, axes: str = "(B, T, C)", counted: nn.Module | None = None) -> None:
        if isinstance(module, nn.Identity):  # a norm that is configured away
            return
        parameters = count_parameters(module if counted is None else counted)

        def hook(_module: nn.Module, _args: Any, output: Tensor) -> None:
            found.record(name, axes, output, parameters)

        handles.append(module.register_forward_hook(hook))

    nothing = nn.Identity()
    try:
        embeddings = model.embeddings
        record_output(embeddings.token, "token embeddings")
        if embeddings.position is not None:  # rotary positions have no table: they are in Q and K
            record_output(embeddings.position, "positional embeddings", "(T, C)")
        record_output(embeddings, "input embeddings", counted=nothing)
        for layer, block in enumerate(model.blocks):
            name = f"block {layer}"
            record_output(block.attention_norm, f"{name} / attention norm")  # type: ignore[arg-type]
            handles.append(block.attention.register_forward_hook(_attention_hook(found, name)))  # type: ignore[union-attr]
            if block.mlp is not None:
                handles.append(block.mlp_norm.register_forward_pre_hook(_input_hook(found, name)))  # type: ignore[union-attr]
                record_output(block.mlp_norm, f"{name} / MLP norm")  # type: ignore[arg-type]
                record_output(block.mlp, f"{name} / MLP")  # type: ignore[arg-type]
            record_output(block, f"{name} / residual", counted=nothing)
        record_output(model.final_norm, "final norm")
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_hook(found: Capture, name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.record(f"{name} / residual after attention", "(B, T, C)", args[0])

    return hook


def _attention_hook(found: Capture, name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, Attention)
        query, key, value = (part.float() for part in module.project(args[0]))
        scores = module.scores(query, key)
        weights = module.weights(scores)
        # The names and axes of the notes. Q, K and V are one matrix product, counted with Q.
        heads = "(B, H, T, D)"
        output_parameters = count_parameters(getattr(module, "projection", nn.Identity()))
        found.record(f"{name} / Q", heads, query, count_parameters(module) - output_parameters)
        found.record(f"{name} / K", heads, key)
        found.record(f"{name} / V", heads, value)
        found.record(f"{name} / scores", "(B, H, T, T)", scores)
        found.record(f"{name} / weights", "(B, H, T, T)", weights)
        found.record(f"{name} / context", heads, weights @ value)
        found.record(f"{name} / attention out", "(B, T, C)", output, output_parameters)

    return hook


def count_parameters(module: nn.Module) -> int:
    """Number of trained values, shared ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _head_parameters(model: GPT) -> int:
    return 0 if model.config.tie_head else count_parameters(model.head)
