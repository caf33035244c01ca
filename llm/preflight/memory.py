"""How much memory a training step takes at its peak, and how much there is."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from llm.config import GPTConfig, OptimConfig
from llm.model import GPT
from llm.training.loss import FLOAT32_BYTES_ELSEWHERE, LARGE_VOCABULARY, block_bytes
from llm.training.optimizer import muon_groups

_KERNELS = 64 << 20
"""What torch loads for a first step on a processor; measured."""


@dataclass(frozen=True)
class Parameters:
    """How many trained values a model has.

    Args:
        total: all of them, shared ones once.
        embeddings: of the token and positional embeddings, and the head.
        muon: of the matrices that Muon trains, if it is the optimizer.
    """

    total: int
    embeddings: int
    muon: int

    @classmethod
    def of(cls, config: GPTConfig, optim: OptimConfig) -> Parameters:
        """Count without building: from models of one and of two blocks, on no device."""
        one, two = (_count(config, optim, n_layer) for n_layer in (1, 2))
        more = config.n_layer - 1
        return cls(one.total + more * (two.total - one.total), one.embeddings, one.muon + more * (two.muon - one.muon))


def _count(config: GPTConfig, optim: OptimConfig, n_layer: int) -> Parameters:
    with torch.device("meta"):
        model = GPT(GPTConfig(**{**config.to_dict(), "n_layer": n_layer}))
    embeddings = {id(p): p.numel() for part in (model.embeddings, model.head) for p in part.parameters()}
    muon = muon_groups(model, optim) if optim.kind == "muon" else []
    return Parameters(
        model.n_parameters, sum(embeddings.values()), sum(p.numel() for group in muon for p in group["params"])
    )


@dataclass(frozen=True)
class Memory:
    """What a training step holds at its peak, at the end of the forward pass, in bytes.

    Args:
        weights: P values; 4 bytes each, or 2 in a true half precision.
        gradients: as many, those of the step before.
        optimizer: two means for each value of AdamW's, one for each of Muon's.
        activations: what the backward pass will need; see `activation_bytes`.
        copies: weights in 16 bits under mixed precision, the head's gradient if it is computed along with the loss,
            and gradients on their way to other processes.
        overhead: on a processor, what the allocator loses between tensors, a third of the activations, and 64 MiB of
            kernels.
        held: what the process has already: Python, torch, the tables of a tokenizer.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    copies: int
    overhead: int
    held: int

    @property
    def state(self) -> int:
        """What is surely needed, whatever the batch: weights, gradients, optimizer."""
        return self.weights + self.gradients + self.optimizer

    @property
    def to_come(self) -> int:
        """All but what the process has already."""
        return self.state + self.activations + self.copies + self.overhead

    @property
    def peak(self) -> int:
        """All of it."""
        return self.to_come + self.held


def expected_memory(
    config: GPTConfig,
    parameters: Parameters,
    batch_size: int,
    precision: str,
    device: str,
    world_size: int = 1,
    held: int = 0,
) -> Memory:
    """The peak of one process.

    Args:
        config: the architecture.
        parameters: of that architecture and its optimizer.
        batch_size: B.
        precision: Lightning's word, such as `32-true` or `bf16-mixed`.
        device: its kind, such as `cpu` or `cuda`.
        world_size: number of processes.
        held: what the process holds now.
    """
    size = {"64-true": 8, "bf16-true": 2, "16-true": 2}.get(precision, 4)
    P, weights = parameters.total, parameters.total * size
    copies = 2 * P if precision.endswith("mixed") else 0
    if config.vocab_size >= LARGE_VOCABULARY:
        copies += config.padded_vocab_size * config.n_embd * size
    if world_size > 1:
        copies += weights
    optimizer = (2 * (P - parameters.muon) + parameters.muon) * size
    activations = activation_bytes(config, batch_size, precision, device)
    overhead = _KERNELS + activations // 3 if device == "cpu" else 0
    return Memory(weights, weights, optimizer, activations, copies, overhead, held)


def activation_bytes(config: GPTConfig, batch_size: int, precision: str, device: str) -> int:
    """What the forward pass of a batch keeps for the backward pass.

    Of each token in each block: the vector as it enters attention and perceptron (2 C); both normalised (2 C);
    queries, keys and values (3 C; normalised ones 3 C more, turned ones 2 C); what attention gave (C); the hidden
    layer before and after its activation (2 hidden); and what dropout drew (2 C), in bits on a GPU and in values on a
    processor. Attention keeps nothing more where it is fused. On a processor it is not while there is dropout: three
    tables of weights (3 H T) are kept then. Besides, what one block holds in passing: the hidden layer and its
    gradients (4 hidden), or five tables. Last, the scores: of one block of tokens where the loss is fused, else of all
    of them, three times.

    Args:
        config: the architecture.
        batch_size: B.
        precision: Lightning's word.
        device: its kind.
    """
    C, T = config.n_embd, config.context_length
    half, on_cpu, dropout = "16" in precision, device == "cpu", config.dropout > 0
    value, stream = (2 if half else 4), (2 if half and precision.endswith("true") else 4)
    attended = 4 if half and on_cpu and T < 256 else value  # short rows are attended to in float32 there
    drawn = dropout * C * (value if on_cpu else 1)
    per_token = 2 * C * stream + 2 * C * value + 4 * C * attended + drawn
    if config.mlp != "none":
        per_token += 2 * config.hidden_size * value + drawn
    if config.qk_norm:
        per_token += 3 * C * value
    if config.positions == "rotary":
        per_token += 2 * C * value
    passing = 4 * config.hidden_size * value
    if config.normalize_scores == "sum" or (dropout and on_cpu):
        per_token += 3 * config.heads * T * attended
        passing = max(passing, 5 * config.heads * T * attended)
    tokens = batch_size * T
    scores = _score_bytes(config, tokens, value, device)
    return tokens * (config.n_layer * per_token + 2 * C * stream + drawn + passing) + scores


def _score_bytes(config: GPTConfig, tokens: int, value: int, device: str) -> int:
    scores = tokens * config.vocab_size
    if config.vocab_size >= LARGE_VOCABULARY:
        in_float32 = 0 if device == "cpu" else min(FLOAT32_BYTES_ELSEWHERE, scores * 4)
        return min(block_bytes(device), scores * value) + in_float32
    return scores * (value + 8)


def process_memory() -> int:
    """What this process holds now, in bytes; 0 where nobody knows."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_memory() -> int:
    """The most that this process has held so far, in bytes."""
    import resource  # Windows has none

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def free_memory(device: str) -> int | None:
    """Bytes that could be had on a device now; None where nobody knows."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    if device != "cpu":
        return None
    found: list[int] = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
        found.append(sizes["MemAvailable"] + sizes.get("SwapFree", 0))
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:  # of a container
        most = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if most != "max":
            found.append(max(0, int(most) - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    except (OSError, ValueError):
        pass
    return min(found, default=None)
