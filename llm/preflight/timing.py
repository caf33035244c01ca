"""How long a run will take: estimated before it, or measured on a throwaway copy."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.config import GPTConfig, OptimConfig
from llm.data.batch import IGNORED
from llm.model.networks import inputs_of
from llm.model.trained import ALL, Trained, trained_network
from llm.preflight.memory import peak_memory
from llm.runtime.counting import MIXED_PRECISIONS, TRUE_PRECISIONS, Costs
from llm.runtime.hardware import peak_flops, synchronize
from llm.training.loss import head_loss
from llm.training.optimizer import build_optimizer

_ROWS = 1024
_MOST_OPERATIONS = 1e9
"""Operations of one matrix product of the benchmark: some 10 ms on two CPU cores."""
_SECONDS_OF_BENCHMARK = 0.04
_FRACTION_OF_PRODUCTS = {torch.float32: 0.85, torch.bfloat16: 0.7}
"""Fraction of a CPU's rate in plain matrix products that a training step reaches; measured."""
_SECONDS_PER_BYTE = 0.6e-9
"""Seconds per byte that the forward pass keeps, outside of matrix products, with one thread: some eight reads and
writes; measured."""
_MEMORY_THREADS = 4
"""More do not make the memory faster."""
_FRACTION_OF_PEAK = 0.3
"""Fraction of a GPU's peak in its data sheet that a training step reaches."""
_STEPS, _SECONDS = 4, 20.0


@torch.no_grad()
def product_rate(config: GPTConfig, tokens: int, dtype: torch.dtype) -> float:
    """The rate of this CPU, in operations a second, in a matrix product of the size of the perceptron's.

    Args:
        config: for C.
        tokens: B T.
        dtype: of the product.
    """
    C = config.n_embd
    rows = max(1, min(tokens, _ROWS, int(_MOST_OPERATIONS / (8 * C * C))))
    left, right = torch.ones(rows, C, dtype=dtype), torch.ones(4 * C, C, dtype=dtype)
    best, end = math.inf, time.perf_counter() + _SECONDS_OF_BENCHMARK
    while (start := time.perf_counter()) < end or best == math.inf:
        torch.nn.functional.linear(left, right)  # (R, C) -> (R, 4C)
        best = min(best, time.perf_counter() - start)
    return 8.0 * rows * C * C / best


def estimated_seconds(
    config: GPTConfig, costs: Costs, batch_size: int, precision: str, device: str, supervised: float = 1.0
) -> float | None:
    """The estimated time of one batch, forward and backward; None if unknown.

    On a processor: the operations of its products at the rate of a product, which is measured now, and what is read
    and written besides; checked on models of 0.8 to 124 million parameters. On a GPU: a fraction of its data sheet.

    Args:
        config: the architecture.
        costs: of a training step.
        batch_size: B.
        precision: Lightning's name for it.
        device: its kind.
        supervised: fraction of the tokens that have a target.
    """
    if device == "cpu":
        tokens = batch_size * config.context_length
        dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
        rate = _FRACTION_OF_PRODUCTS[dtype] * product_rate(config, tokens, dtype)
        kept = costs.kept + 2 * supervised * tokens * config.n_logits
        return costs.flops / rate + kept * _SECONDS_PER_BYTE / min(torch.get_num_threads(), _MEMORY_THREADS)
    if device == "cuda" and (peak := peak_flops(torch.device("cuda", torch.cuda.current_device()), precision)):
        return costs.flops / (_FRACTION_OF_PEAK * peak)
    return None


@dataclass(frozen=True)
class Measured:
    """What a few steps took.

    Args:
        seconds: of one batch, the quickest.
        peak: bytes at the peak; of the process, or on the device.
    """

    seconds: float
    peak: int


def measure_steps(
    config: GPTConfig,
    optim: OptimConfig,
    batch_size: int,
    precision: str,
    device: str,
    supervised: float = 1.0,
    trained: Trained = ALL,
) -> Measured:
    """Make a few steps with a throwaway copy of the model, on random ids."""
    place = torch.device(device)
    model = trained_network(config, trained).to(place, TRUE_PRECISIONS.get(precision))
    ids = torch.randint(config.vocab_size, (batch_size, config.context_length + 1), device=place)
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:] % config.n_logits
    targets[torch.rand(targets.shape, device=place) >= supervised] = IGNORED

    def loss() -> Tensor:
        hidden_states = model.hidden_states(*inputs_of(model, inputs))
        return head_loss(model.output_layer, hidden_states, targets, transform=model.before_output).mean

    return time_steps(model, optim, loss, precision, device)


def time_steps(
    model: nn.Module, optim: OptimConfig, loss_of: Callable[[], Tensor], precision: str, device: str
) -> Measured:
    """Make a few steps with a model that is on a device.

    Args:
        model: what is trained.
        optim: its optimizer.
        loss_of: the loss of a batch.
        precision: Lightning's name for it.
        device: its kind.
    """
    place, mixed = torch.device(device), MIXED_PRECISIONS.get(precision)
    optimizer = build_optimizer(model, optim)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began, best = time.perf_counter(), float("inf")
    for step in range(_STEPS):
        synchronize(place)
        start = time.perf_counter()
        with torch.autocast(device, mixed) if mixed else contextlib.nullcontext():
            loss = loss_of()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        synchronize(place)
        if step > 0:  # the first is slower: kernels are chosen, memory is allocated
            best = min(best, time.perf_counter() - start)
        if step > 0 and time.perf_counter() - began > _SECONDS:
            break
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else peak_memory()
    return Measured(best, peak)
