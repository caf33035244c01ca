"""The optimizer and its learning rate over a run."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.optim import AdamW

from llm.config import OptimConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices and embeddings, which decay, and biases and norms, which don't.

    Weight decay pulls towards zero; a bias or a gain has no reason to be small.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: OptimConfig) -> AdamW:
    """AdamW (Loshchilov & Hutter 2017), all parameters in one fused kernel where there is one."""
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps", "xpu") for p in model.parameters())
    return AdamW(
        parameter_groups(model, config.weight_decay),
        lr=config.learning_rate,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        fused=fused,
    )


def learning_rate_at(step: int, config: OptimConfig, total_steps: int | None) -> float:
    """The learning rate of an optimizer step, as a share of the peak: linear warm-up, then a cosine.

    Args:
        step: optimizer steps done so far.
        config: warm-up and end.
        total_steps: optimizer steps in the whole run; None if nobody knows: the rate then stays at its peak.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if total_steps is None:
        return 1.0
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    return config.final_learning_rate + (1 - config.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * progress))


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, total_steps: int | None
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule of `learning_rate_at`, to be stepped after each optimizer step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_at(step, config, total_steps=total_steps)
    )
