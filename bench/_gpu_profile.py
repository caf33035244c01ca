"""Where a step's time goes on a GPU: kernels, gaps, and waits for values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

MOST_KERNELS = 30
WAITS = (
    "cudaStreamSynchronize",
    "cudaDeviceSynchronize",
    "cudaEventSynchronize",
    "aten::item",
    "aten::_local_scalar_dense",
    "Memcpy DtoH",
)
"""Names of events at which the host waits for the device, or a value comes from there."""


def profiler(device: str) -> profile:
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])])


def profiled(step: Callable[[], object], steps: int, device: str) -> dict[str, Any]:
    """The summary of some steps."""
    with profiler(device) as prof:
        for _ in range(steps):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
    return summary(prof, steps, device)


def summary(prof: profile, steps: int, device: str) -> dict[str, Any]:
    """Milliseconds a step: from the first kernel to the last, busy, idle, and of the kernels that take most.

    On a processor, its operations stand for the kernels. The one `cudaDeviceSynchronize` at the end, and what the
    profiler itself waits for, count among the waits: less than one a step.
    """
    events = prof.events() or []
    kind = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    kernels = [e for e in events if e.device_type == kind and not getattr(e, "is_user_annotation", False)]
    spans = sorted((e.time_range.start, e.time_range.end) for e in kernels)  # microseconds
    busy, end = 0.0, spans[0][0] if spans else 0.0
    for first, last in spans:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    span = end - spans[0][0] if spans else 0.0
    time_of: Counter[str] = Counter()
    count_of: Counter[str] = Counter()
    for event in kernels:
        own = event.time_range.elapsed_us() if device == "cuda" else event.self_cpu_time_total
        time_of[event.name] += own
        count_of[event.name] += 1
    waits = {name: sum(e.name.startswith(name) for e in events) / steps for name in WAITS}
    return {
        "steps": steps,
        "span_ms": span / steps / 1e3,
        "busy_ms": busy / steps / 1e3,
        "idle_ms": (span - busy) / steps / 1e3,
        "kernels_a_step": len(kernels) / steps,
        "waits_a_step": {name: count for name, count in waits.items() if count},
        "kernels": [
            {"ms": own / steps / 1e3, "calls": count_of[name] / steps, "name": name[:120]}
            for name, own in time_of.most_common(MOST_KERNELS)
        ],
    }
