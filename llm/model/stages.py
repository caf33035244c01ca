"""What a network says about the way through it, so that the probe can look at any network.

A network has a method `stages`, which names the modules that are worth a look in the order in which they run. Where
one is a `Hook`, its output (or input) is a stage. Where one is an `AttentionHook`, its module spells out the stages of
its attention from the inputs that it got. A trained value belongs to the first stage whose module has it, so what lies
within another module comes before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

AttentionKind = Literal["self", "cross", "source"]


@dataclass(frozen=True)
class Stage:
    """One stage of a forward pass, as it was.

    Args:
        name: such as `token embeddings`, or `block 0 / weights`.
        axes: the symbolic shape, such as `(B, T, C)`.
        tensor: what was there.
        parameters: trained values that belong to this stage alone.
    """

    name: str
    axes: str
    tensor: Tensor
    parameters: int = 0


@dataclass(frozen=True)
class Hook:
    """A module whose output is a stage.

    Args:
        name: of the stage.
        module: whose.
        axes: the symbolic shape.
        of_input: the stage is the module's first input instead.
    """

    name: str
    module: nn.Module
    axes: str = "(B, T, C)"
    of_input: bool = False


@dataclass(frozen=True)
class AttentionHook:
    """A module that attends.

    Args:
        name: what its stages are under, such as `block 0`.
        module: spells its stages out.
        kind: `self`, where the keys are of the text itself; `cross`, where they are of a memory; `source`, where
            queries and keys are both of what becomes the memory.
        is_causal: whether a query sees no later keys.
    """

    name: str
    module: SpellsOut
    kind: AttentionKind = "self"
    is_causal: bool = False


class SpellsOut(Protocol):
    """An attention that gives its stages, `weights` (B, H, T, S) among them, from the inputs of its `forward`."""

    def spelled_out(self, *inputs: Any) -> Iterator[Stage]:
        """The stages, in the order in which they are computed; their names without what they are under."""

    def register_forward_hook(self, hook: Any) -> RemovableHandle:
        """As any module's."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """As any module's."""
