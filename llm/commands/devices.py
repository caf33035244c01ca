"""The device that a command runs on."""

from __future__ import annotations

import torch

from llm.errors import ConfigError


def find_device(name: str) -> torch.device:
    """The device behind a name such as `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        ConfigError: there is no such device here.
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # `meta` is a device too, but nothing can be read from it
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConfigError(f"no device {name!r} here: {str(error).splitlines()[0]}") from error
    return device
