"""The machine: its native precision, its peak FLOPs, and synchronization with its accelerator."""

from __future__ import annotations

import torch

PEAK_FLOPS: dict[str, float] = {
    "GB200": 2500e12,
    "B200": 2250e12,
    "GH200": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "A40": 150e12,
    "A30": 165e12,
    "A10": 125e12,
    "A10G": 70e12,
    "RTX A6000": 155e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
    "RTX 3090": 71e12,
    "V100": 125e12,
    "T4": 65e12,
}
"""Dense 16-bit floating-point operations a second with sums in float32, from NVIDIA's data sheets, by words of the
device's name; the first entry whose words are all there counts. V100 and T4 have float16 only.

Lightning's `get_available_flops` (version 2.6.6) knows neither B200, GH200, A30, A10 nor, by the name that the driver
gives, H200; it takes L40 and L40S for L4, counts H100 NVL twice, and RTX cards and A40 without their tensor cores."""

_OTHER_CHIP = {"Laptop", "Ti", "SUPER", "D", "MIG"}
"""Words after which a name in the table means a slower or faster chip, or a part of one."""


def has_native_bfloat16(accelerator: str = "auto") -> bool:
    """Whether the device that a Trainer with this accelerator takes multiplies bfloat16 faster than float32.

    Args:
        accelerator: Lightning's name: `auto`, `cpu`, `gpu`, `cuda`; False for others.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available()):
        asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile"))
        return any(supported() for supported in asked if supported is not None)
    return False


def synchronize(device: torch.device) -> None:
    """Wait until a device has finished its queued work: it is asynchronous, so a clock read without this is early."""
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and device.type == accelerator.type:
        torch.accelerator.synchronize(device)


def peak_flops(device: torch.device, precision: str) -> float | None:
    """The peak floating-point operations a second of the device, or None if unknown.

    Args:
        device: where the model is.
        precision: Lightning's name for it; the table is for 16 bits.
    """
    if device.type != "cuda" or not precision.startswith(("bf16", "16")):
        return None
    name = torch.cuda.get_device_name(device)
    words = set(name.replace("-", " ").split())
    if words & _OTHER_CHIP:
        return None
    for part, flops in PEAK_FLOPS.items():
        if words.issuperset(part.split()):
            return flops
    return None
