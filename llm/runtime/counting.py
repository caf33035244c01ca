"""The memory and FLOPs of a training step of a network, counted without computing anything.

The real network runs forward and backward on fake tensors: they have a shape, a type and a device, and no memory. Every
operation is seen as the device would get it, so that an architecture needs no formula, and neither does what depends on
device and precision, such as which attention is fused or what mixed precision copies.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count
from torch.utils.weak import WeakIdKeyDictionary

TRUE_PRECISIONS = {"bf16-true": torch.bfloat16, "16-true": torch.float16, "64-true": torch.float64}
MIXED_PRECISIONS = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
"""The dtypes behind Lightning's names of precisions; the others mean float32."""

Network = TypeVar("Network", bound=nn.Module)

_aten = torch.ops.aten

_HEAP = 32 << 20
"""Tensors from this size on never lie on the heap of glibc's allocator (mallopt(3), M_MMAP_THRESHOLD)."""


@dataclass(frozen=True)
class Costs:
    """What a forward and a backward pass cost.

    Args:
        kept: bytes that the forward pass leaves for the backward pass; copies of weights are among them, weights not.
        scattered: bytes of those in tensors of less than 32 MiB, between which an allocator leaves gaps.
        forward_peak: bytes at the peak of the forward pass.
        backward_peak: bytes at the peak of the backward pass; the gradients of weights that are there by then are
            among them.
        flops: floating-point operations of matrix products and attention, forward and backward.
    """

    kept: int
    scattered: int
    forward_peak: int
    backward_peak: int
    flops: int


def count_costs(
    build: Callable[[], Network], forward: Callable[[Network], Tensor], precision: str, device: str
) -> Costs:
    """Count what a training step of any network costs.

    Args:
        build: makes the network.
        forward: runs it on a batch of zeros, and gives what the backward pass begins with, such as the loss.
        precision: Lightning's name for it, such as `32-true` or `bf16-mixed`.
        device: its kind, such as `cpu` or `cuda`; there must be one.
    """
    mixed = MIXED_PRECISIONS.get(precision)
    with FakeTensorMode(), torch.device(device):
        with default_dtype(TRUE_PRECISIONS.get(precision, torch.float32)):
            network = build()
        with _Meter(network) as meter:
            with torch.autocast(device, mixed) if mixed else contextlib.nullcontext():
                output = forward(network)
            kept, scattered, forward_peak = meter.live, meter.scattered, meter.peak
            meter.peak = 0
            output.backward(torch.ones_like(output))
    return Costs(kept, scattered, forward_peak, meter.peak, meter.flops)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Make new floating-point tensors of a dtype, within."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class _Meter(TorchDispatchMode):
    """Adds up the operations, and the storages that are alive, those of a network's own tensors not counted.

    Args:
        network: what is there before.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.live = self.scattered = self.peak = self.flops = 0
        self._seen = WeakIdKeyDictionary()
        for tensor in (*network.parameters(), *network.buffers()):
            self._seen[tensor.untyped_storage()] = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        result = func(*args, **(kwargs or {}))
        if (formula := _FORMULAS.get(func.overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, Tensor) and (storage := tensor.untyped_storage()) not in self._seen:
                self._seen[storage] = True
                self._add(storage.nbytes())
                weakref.finalize(storage, self._add, -storage.nbytes()).atexit = False
        self.peak = max(self.peak, self.live)
        return result

    def _add(self, n_bytes: int) -> None:
        self.live += n_bytes
        if abs(n_bytes) < _HEAP:
            self.scattered += n_bytes


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))


def _attention_backward(_: Any, query: Tensor, key: Tensor, value: Tensor, *__: Any, **___: Any) -> int:
    """Two products for each of the forward pass: recomputing the attention scores is not counted as useful."""
    return 2 * _attention(query, key, value)


_FORMULAS: dict[Any, Callable[..., int]] = {
    **flop_registry,
    _aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    _aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    _aten._scaled_dot_product_flash_attention_backward: _attention_backward,
    _aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
    _aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
}
"""Torch's formulas, and those of fused attention as they are counted for utilization (Chowdhery et al. 2022, appendix
B)."""
