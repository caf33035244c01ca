"""The peak memory of a training step, and the memory that is free."""

from __future__ import annotations

import os
import sys
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch
from torch import nn

from llm.config import GPTConfig, OptimConfig
from llm.model.embeddings import Head
from llm.model.trained import ALL, Trained, count_trained, trained_network
from llm.runtime.counting import TRUE_PRECISIONS, Costs
from llm.training.optimizer import muon_groups

_KERNELS = 48 << 20
"""Bytes that torch loads for a first step on a CPU; measured."""

_GAPS = 0.5
"""What glibc's allocator loses between tensors of less than 32 MiB, as a fraction of those that are kept; measured."""


@dataclass(frozen=True)
class Parameters:
    """How many trained values a model has.

    Args:
        total: all of them, shared ones once.
        embeddings: of the token and positional embeddings, and the head.
        muon: of the matrices that Muon trains, if it is the optimizer.
        trained: all that are not frozen.
        halved: of frozen ones, those in bfloat16 whatever the precision of the run.
    """

    total: int
    embeddings: int
    muon: int
    trained: int
    halved: int

    @classmethod
    def of(cls, config: GPTConfig, optim: OptimConfig, trained: Trained = ALL) -> Parameters:
        """Count on no device: from models of one and of two blocks, unless blocks differ in what is trained.

        Raises:
            ConfigError: `trained` names what is not in the network.
        """
        if not trained.is_all:
            return _count(config, optim, trained)
        one, two = (_count(replace(config, n_layer=n_layer), optim, trained) for n_layer in (1, 2))
        parts = zip(astuple(one), astuple(two), strict=True)
        return cls(*(first + (config.n_layer - 1) * (second - first) for first, second in parts))

    @classmethod
    def of_network(cls, network: nn.Module, optim: OptimConfig) -> Parameters:
        """Count those of a network whose frozen parameters are."""
        tables = [module for module in network.modules() if isinstance(module, nn.Embedding | Head)]
        embeddings = {id(p): p.numel() for table in tables for p in table.parameters()}
        muon = muon_groups(network, optim) if optim.kind == "muon" else []
        return cls(
            sum(parameter.numel() for parameter in network.parameters()),
            sum(embeddings.values()),
            sum(p.numel() for group in muon for p in group["params"]),
            count_trained(network),
            sum(p.numel() for p in network.parameters() if p.dtype == torch.bfloat16),
        )


def _count(config: GPTConfig, optim: OptimConfig, trained: Trained) -> Parameters:
    with torch.device("meta"):
        return Parameters.of_network(trained_network(config, trained), optim)


@dataclass(frozen=True)
class Memory:
    """What a training step holds at its peak, in bytes.

    Args:
        weights: P values; 4 bytes each, or 2 in a true half precision, or where frozen in bfloat16.
        gradients: of those that are trained, those of the step before.
        optimizer: two moments for each trained value of AdamW's, one for each of Muon's.
        activations: what the forward and backward pass hold besides, at the end of the one or in the other; copies of
            weights in 16 bits and the head's gradients are among them.
        buckets: gradients on their way to other processes.
        overhead: on a processor, the gaps that the allocator leaves between small tensors, and kernels.
        held: what the process has already: Python, torch, the tables of a tokenizer.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    buckets: int
    overhead: int
    held: int

    @property
    def state(self) -> int:
        """What is needed for any batch size: weights, gradients, optimizer."""
        return self.weights + self.gradients + self.optimizer

    @property
    def to_come(self) -> int:
        """All but what the process holds already."""
        return self.state + self.activations + self.buckets + self.overhead

    @property
    def peak(self) -> int:
        """All of it."""
        return self.to_come + self.held


def expected_memory(
    parameters: Parameters, costs: Costs, precision: str, device: str, world_size: int = 1, held: int = 0
) -> Memory:
    """The peak of one process.

    Args:
        parameters: of the network and its optimizer.
        costs: of a training step.
        precision: Lightning's name for it, such as `32-true` or `bf16-mixed`.
        device: its kind, such as `cpu` or `cuda`.
        world_size: number of processes.
        held: what the process holds now.
    """
    size = TRUE_PRECISIONS.get(precision, torch.float32).itemsize
    weights = parameters.total * size - parameters.halved * max(0, size - 2)
    gradients = parameters.trained * size
    optimizer = (2 * (parameters.trained - parameters.muon) + parameters.muon) * size
    # Gradients of the step before are there until the backward pass makes new ones.
    activations = max(costs.forward_peak, costs.backward_peak - gradients)
    buckets = gradients if world_size > 1 else 0
    overhead = _KERNELS + int(_GAPS * costs.scattered) if device == "cpu" else 0
    return Memory(weights, gradients, optimizer, activations, buckets, overhead, held)


def process_memory() -> int:
    """What this process holds now, in bytes; 0 if unknown."""
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
    """Free bytes of a device now; None if unknown."""
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
