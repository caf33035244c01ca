"""How gradients flow through the layers in one optimizer step, and how far the weights move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llm.model import Network


@dataclass(frozen=True)
class LayerFlow:
    """One layer in one step.

    Args:
        name: `token embeddings`, `positional embeddings`, `block 0` and so on, `final norm`, `head`.
        norm: length of the gradient, before clipping.
        non_finite: number of gradient values that are NaN or infinite.
        update_ratio: length of the step over the length of the weights; around 0.001 is healthy. None before the step.
    """

    name: str
    norm: float
    non_finite: int
    update_ratio: float | None = None


class GradientFlow:
    """Measures one optimizer step: created when the gradients are there, asked again after the step.

    It holds a copy of the weights in between, at a time when a training step holds no activations.

    Args:
        model: with gradients.
        keep_weights: whether the step will be measured too.
    """

    def __init__(self, model: Network, keep_weights: bool = True) -> None:
        self._layers = layer_parameters(model)
        self.before: list[LayerFlow] = []
        self._weights: list[list[Tensor]] = []
        for name, parameters in self._layers.items():
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            norm = _norm(gradients)
            # If the norm is finite, so is every value; checking each would double the cost.
            odd = 0 if norm < float("inf") else sum(int((~gradient.isfinite()).sum()) for gradient in gradients)
            self.before.append(LayerFlow(name, norm, odd))
            if keep_weights:
                self._weights.append([parameter.detach().clone() for parameter in parameters])

    @torch.no_grad()
    def after_step(self) -> list[LayerFlow]:
        """The same layers, now with how far they moved."""
        flows = []
        for flow, parameters, old in zip(self.before, self._layers.values(), self._weights, strict=True):
            length = _norm(old)
            torch._foreach_sub_(old, [parameter.detach() for parameter in parameters])
            ratio = _norm(old) / length if length > 0 else float("nan")
            flows.append(LayerFlow(flow.name, flow.norm, flow.non_finite, ratio))
        return flows


def layer_parameters(model: Network) -> dict[str, list[nn.Parameter]]:
    """The trained parameters by layer, each in one layer only; layers that have none are omitted."""
    seen: set[int] = set()
    layers: dict[str, list[nn.Parameter]] = {}
    for stage in model.stages():
        name = stage.name.partition(" / ")[0]
        own = [p for p in stage.module.parameters() if p.requires_grad and id(p) not in seen]
        seen.update(map(id, own))
        if own:
            layers.setdefault("head" if name == "logits" else name, []).extend(own)
    return layers


def flow_table(flows: list[LayerFlow]) -> str:
    """A table for the log."""
    return "\n".join(f"  {flow.name:<24} norm {flow.norm:<12.4g} {flow.non_finite:,} non-finite" for flow in flows)


def _norm(tensors: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(tensors)) if tensors else 0.0
