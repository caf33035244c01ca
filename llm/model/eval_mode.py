"""Eval mode for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """No dropout within; the mode of before behind it."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)
