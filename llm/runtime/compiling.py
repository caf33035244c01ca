"""torch.compile, and the one place that falls back to eager execution where it fails."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


class Compiled:
    """A function of tensors, compiled at its first call; where that fails, a log line says why, and it runs as it is.

    Args:
        function: what to compile. Its module is left as it is: hooks on its parts still fire when it is called itself.
        plain: what to call if that fails. Default: the function.
        compiler: makes of the function one that compiles itself when it is called. Default: `torch.compile`.
        variant: of the arguments, such as their shapes; for each it is compiled anew.
        message: what the log line says before the reason.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        plain: Callable[..., Tensor] | None = None,
        compiler: Callable[[Callable[..., Tensor]], Callable[..., Tensor]] | None = None,
        variant: Callable[..., Hashable] = lambda *_: None,
        message: str = "compile:     failed, continuing in eager mode",
    ) -> None:
        self._plain = plain or function
        self._step = (compiler or torch.compile)(function)
        self._variant = variant
        self._message = message
        self._variants: set[Hashable] = set()

    @property
    def is_compiled(self) -> bool:
        """Whether it has been compiled, for one variant at least, and runs."""
        return bool(self._variants) and self._step is not self._plain

    def __call__(self, *x: Any) -> Tensor:
        """As the function."""
        variant = self._variant(*x)
        if variant in self._variants or self._step is self._plain:
            return self._step(*x)
        try:
            # Variants are forms of the same code, of which torch would allow eight.
            with torch._dynamo.config.patch(recompile_limit=64):
                result = self._step(*x)
            self._variants.add(variant)
        except Exception as error:  # whatever the compiler fails on, the plain function works
            self._step = self._plain
            result = self._plain(*x)  # an error of the function itself is raised again here
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            log.warning("%s: %s", self._message, lines[0] if lines else type(error).__name__)
        return result
