"""Hides Transformers from a process that needs none: torchmetrics would import it, a quarter of the time of a start."""

import importlib.metadata
from importlib.metadata import Distribution

_installed = Distribution.from_name


def _from_name(name: str) -> Distribution:
    if name in ("scipy", "transformers"):
        raise importlib.metadata.PackageNotFoundError(name)
    return _installed(name)


Distribution.from_name = staticmethod(_from_name)
