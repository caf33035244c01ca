"""Compiling, where it can be had."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Compiled:
    """A function of tensors, compiled at its first call; where that fails, a log line says why, and it runs as it is.

    Args:
        function: what to compile. Its module is left as it is: hooks on its parts still fire when it is called itself.
        plain: what to call if that fails. Default: the function.
    """

    def __init__(self, function: Callable[..., Tensor], plain: Callable[..., Tensor] | None = None) -> None:
        self.is_compiled = False
        self._plain = plain or function
        self._step = torch.compile(function)

    def __call__(self, *x: Any) -> Tensor:
        """As the function."""
        if self.is_compiled or self._step is self._plain:
            return self._step(*x)
        try:
            result = self._step(*x)
            self.is_compiled = True
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever hinders a compiler, the model can be trained without it
            self._step = self._plain
            result = self._plain(*x)  # an error of the function's own, not of compiling it, ends the run here
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            log.warning("compile:     not possible here, going on without: %s", reason)
        return result
