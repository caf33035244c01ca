"""Hook a network for one forward pass, and leave no trace.

Training runs on fused attention, which never holds the weights. The probe hooks the stages that the network names
(`llm.model.stages`) of one small batch, in eval mode, without gradients and uncompiled; each attention computes its
scores and weights in float32 from the inputs that it really received; then the hooks are removed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model import AttentionHook, Hook, Network, Stage
from llm.model.eval_mode import eval_mode
from llm.model.stages import AttentionKind

MAX_ATTENTION_BYTES = 256 * 2**20
"""What the attention scores and weights of one capture may take."""

_Forward = Callable[[nn.Module, tuple[Any, ...], Tensor], None]


def longest_window(config: GPTConfig) -> int:
    """The most tokens whose matrices a capture may hold: scores and weights of all heads in 256 MiB."""
    return min(config.context_length, math.isqrt(MAX_ATTENTION_BYTES // (2 * 4 * config.n_layer * config.heads)))


class Capture(dict[str, Stage]):
    """The stages of one forward pass, by name, in the order in which they happened.

    Args:
        attentions: the attentions that the network has, in the order in which they run.
    """

    def __init__(self, attentions: Iterable[AttentionHook] = ()) -> None:
        super().__init__()
        self.attentions = list(attentions)

    def tensor(self, name: str) -> Tensor:
        """The tensor of a stage."""
        return self[name].tensor

    def maps(self, kind: AttentionKind = "self") -> list[Tensor]:
        """The attention weights of each attention of a kind, (B, H, T, S): rows are queries, columns keys.

        Rows sum to 1, and S is T where the keys are of the text itself.
        """
        return [self.tensor(f"{hook.name} / weights") for hook in self.attentions if hook.kind == kind]

    def attention(self, layer: int) -> Tensor:
        """The weights of a layer's attention to the text itself, (B, H, T, T)."""
        return self.maps()[layer]

    def after_block(self, layer: int) -> Tensor:
        """The residual stream as a block leaves it, (B, T, C)."""
        return self.tensor(f"block {layer} / residual")

    def record(self, stage: Stage) -> None:
        """Keep a stage."""
        self[stage.name] = dataclasses.replace(stage, tensor=stage.tensor.detach())


def capture(
    model: Network,
    ids: Tensor,
    targets: Tensor | None = None,
    autocast: torch.dtype | None = None,
    **inputs: Any,
) -> Capture:
    """Run a network once and keep every stage.

    Its mode, its hooks, its compiled graphs and the random state are afterwards what they were before.

    Args:
        model: any network that names its stages.
        ids: (B, T) token ids; keep B x T small, since every (T, T) matrix of every head is held.
        targets: (B, T) the tokens that its logits are of, or (B) the labels, for the loss as a last stage.
        autocast: the dtype of mixed precision, if the stages are to be in it.
        inputs: what else its `forward` takes, such as `lengths`.
    """
    found = Capture(hook for hook in model.stages() if isinstance(hook, AttentionHook))
    found.record(Stage("token ids", "(B, T)", ids))
    with eager(model, ids, autocast), torch.no_grad(), _hooks(model, found.record):
        logits = model.forward(ids, **inputs)  # not `model(ids)`, which might be compiled
        if targets is not None:
            loss = F.cross_entropy(logits.float().flatten(0, -2), targets.flatten())  # (B, T, V) -> (B T, V)
            found.record(Stage("loss", "()", loss))
    return found


def attention_maps(model: Network, ids: Tensor, **inputs: Any) -> list[Tensor]:
    """The weights of each attention to the text itself, (B, H, T, T), and nothing else: cheaper than a whole capture.

    Args:
        model: any network that names its stages; it is left as it was.
        ids: (B, T) token ids.
        inputs: what else its `hidden_states` takes.
    """
    maps: list[Tensor] = []

    def hook(module: Any, args: tuple[Any, ...], _output: Tensor) -> None:
        maps.extend(stage.tensor for stage in module.spelled_out(*args) if stage.name == "weights")

    with contextlib.ExitStack() as stack, eager(model, ids), torch.no_grad():
        for stage in model.stages():
            if isinstance(stage, AttentionHook) and stage.kind == "self":
                stack.callback(stage.module.register_forward_hook(hook).remove)
        model.hidden_states(ids, **inputs)
    return maps


@contextlib.contextmanager
def eager(model: nn.Module, ids: Tensor, autocast: torch.dtype | None = None) -> Iterator[None]:
    """Eval mode, no autocast but to a dtype that is named, and no compiled graph entered or made."""
    of_precision: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if not ids.is_meta:
        of_precision = torch.autocast(ids.device.type, autocast, enabled=autocast is not None)
    with eval_mode(model), torch.compiler.set_stance("force_eager"), of_precision:
        yield


@contextlib.contextmanager
def _hooks(model: Network, record: Callable[[Stage], None]) -> Iterator[None]:
    counted: set[nn.Parameter] = set()
    with contextlib.ExitStack() as stack:
        for stage in model.stages():
            if isinstance(stage, Hook) and stage.of_input:
                handle = stage.module.register_forward_pre_hook(_input_hook(stage, record))
                stack.callback(handle.remove)
                continue
            new = set(stage.module.parameters()) - counted
            counted |= new
            n_parameters = sum(parameter.numel() for parameter in new)
            if isinstance(stage, AttentionHook):
                handle = stage.module.register_forward_hook(_attention_hook(stage, n_parameters, record))
            elif isinstance(stage.module, nn.Identity):  # a norm that is configured away
                continue
            else:
                handle = stage.module.register_forward_hook(_output_hook(stage, n_parameters, record))
            stack.callback(handle.remove)
        yield


def _output_hook(stage: Hook, n_parameters: int, record: Callable[[Stage], None]) -> _Forward:
    def hook(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        record(Stage(stage.name, stage.axes, output, n_parameters))

    return hook


def _input_hook(stage: Hook, record: Callable[[Stage], None]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
        record(Stage(stage.name, stage.axes, args[0]))

    return hook


def _attention_hook(attention: AttentionHook, n_parameters: int, record: Callable[[Stage], None]) -> _Forward:
    def named(stage: Stage) -> Stage:
        axes = stage.axes.replace("T", "S") if attention.kind == "source" else stage.axes
        return dataclasses.replace(stage, name=f"{attention.name} / {stage.name}", axes=axes)

    def hook(module: Any, args: tuple[Any, ...], output: Tensor) -> None:
        left = n_parameters
        for stage in module.spelled_out(*args):
            record(named(stage))
            left -= stage.parameters
        record(named(Stage("attention out", "(B, T, C)", output, left)))

    return hook
