"""What a training step of a network costs, head and loss included."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.config import GPTConfig, RNNConfig
from llm.model import Network
from llm.model.networks import inputs_of
from llm.model.trained import ALL, Trained, trained_network
from llm.runtime.counting import MIXED_PRECISIONS, TRUE_PRECISIONS, Costs, count_costs
from llm.training.fused_loss import block_bytes
from llm.training.loss import FLOAT32_BYTES_ELSEWHERE, LARGE_VOCABULARY

_FEW_STEPS = (2, 4, 6)
"""Lengths at which the costs of a recurrent network are counted."""


def step_costs(
    config: GPTConfig,
    batch_size: int,
    precision: str,
    device: str,
    supervised: float = 1.0,
    trained: Trained = ALL,
) -> Costs:
    """Count the costs of a step on a full batch.

    Where all is trained, from models of one and two blocks: each further block costs the same, or, where a sliding
    window is on some layers only, one of two costs.

    Args:
        config: the architecture, a GPT's or another network's.
        batch_size: B.
        precision: Lightning's name for it.
        device: its kind.
        supervised: fraction of the tokens that have a target.
        trained: what is not frozen.
    """
    fused = config.n_logits >= LARGE_VOCABULARY
    N = batch_size * config.context_length
    rows = max(1, round(supervised * N)) if device == "cpu" else N  # elsewhere, the head sees every token

    def forward(model: Network) -> Tensor:
        N = batch_size * model.config.context_length
        rows = max(1, round(supervised * N)) if device == "cpu" else N
        ids = torch.zeros(batch_size, model.config.context_length, dtype=torch.int64)
        states = model.hidden_states(*inputs_of(model, ids)).flatten(0, 1)  # (B, T, C) -> (N, C)
        if rows < N:
            states = states[ids.flatten()[:rows]]  # (N, C) -> (rows, C)
        states = model.before_output(states)
        if fused:
            return states
        return F.cross_entropy(model.output_layer(states).float(), ids.flatten()[:rows])  # (rows, C) -> (rows, V)

    def count_as_it_is(part: GPTConfig) -> tuple[int, ...]:
        return astuple(count_costs(lambda: trained_network(part, trained), forward, precision, device))

    def count(n_layer: int, **settings: Any) -> tuple[int, ...]:
        part = replace(config, n_layer=n_layer, **settings)
        return _count_recurrent(part, count_as_it_is) if isinstance(part, RNNConfig) else count_as_it_is(part)

    if trained.is_all and config.n_layer > 1:
        numbers, kinds = zip(*_further_blocks(config), strict=True)
        counts = count(1, **kinds[0]), *(count(2, **kind) for kind in kinds)
        costs = Costs(
            *(
                one + sum(number * (two - one) for number, two in zip(numbers, twos, strict=True))
                for one, *twos in zip(*counts, strict=True)
            )
        )
    else:
        costs = Costs(*count(config.n_layer))
    if not fused:
        return costs
    with torch.device("meta"):
        head = trained_network(config, trained).output_layer
    return _with_fused_loss(costs, config, rows, precision, device, head.table.requires_grad)


def _further_blocks(config: Any) -> list[tuple[int, dict[str, Any]]]:
    """How many blocks there are besides the first, by kind, and the settings that make the second of two of that kind;
    those of the first kind make a network of one block, too."""
    if not getattr(config, "full_attention_layers", None):
        return [(config.n_layer - 1, {})]
    n_full = sum(config.window(layer) is None for layer in range(config.n_layer))
    full = "full_attention_layers"
    return [(config.n_layer - 1 - n_full, {full: ()}), (n_full, {full: (1,)})]


def _count_recurrent(config: Any, count: Callable[[Any], tuple[int, ...]]) -> tuple[int, ...]:
    """The costs of a recurrent network: from those of a few tokens, since each token is a step of its own.

    All are polynomials of the length T, of degree two where each step attends to T states.
    """
    T = config.context_length
    if _FEW_STEPS[-1] >= T:
        return count(config)
    a, b, c = _FEW_STEPS
    at_a, at_b, at_c = (count(replace(config, context_length=length)) for length in _FEW_STEPS)
    weights = (
        (T - b) * (T - c) / ((a - b) * (a - c)),
        (T - a) * (T - c) / ((b - a) * (b - c)),
        (T - a) * (T - b) / ((c - a) * (c - b)),
    )  # Lagrange's polynomial
    return tuple(
        max(0, round(sum(weight * value for weight, value in zip(weights, values, strict=True))))
        for values in zip(at_a, at_b, at_c, strict=True)
    )


def _with_fused_loss(
    costs: Costs, config: GPTConfig, N: int, precision: str, device: str, trains_head: bool = True
) -> Costs:
    """Add head and loss of N tokens, which make their gradients in the forward pass, a block of logits at a time."""
    C, V = config.n_embd, config.vocab_size
    size = TRUE_PRECISIONS.get(precision, torch.float32).itemsize
    value = MIXED_PRECISIONS[precision].itemsize if precision in MIXED_PRECISIONS else size
    gradients = N * C * value + trains_head * config.padded_vocab_size * C * size
    copies = (N + V) * C * value if precision in MIXED_PRECISIONS else V * C * value if device != "cpu" else 0
    logits = min(block_bytes(device), N * V * value) * (1 if config.logit_softcap is None else 3)  # and slopes
    if device != "cpu":
        logits += min(FLOAT32_BYTES_ELSEWHERE, N * V * 4)
    return Costs(
        costs.kept + gradients,
        costs.scattered,
        max(costs.forward_peak, costs.kept + gradients + copies + logits),
        costs.backward_peak + gradients,
        costs.flops + (6 if trains_head else 4) * N * V * C,
    )
