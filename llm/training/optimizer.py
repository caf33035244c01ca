"""The optimizer and its learning rate over a run."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW

from llm.config import OptimConfig
from llm.errors import ConfigError
from llm.model import Block, SelfAttention
from llm.model.lora import LoRALinear
from llm.training.muon import MuonWithAdamW


def remember_shapes(model: nn.Module) -> None:
    """Note what is a matrix, before a strategy (FSDP) leaves each process a flat shard of it."""
    for parameter in model.parameters():
        parameter.whole_ndim = parameter.ndim  # type: ignore[attr-defined]


def whole_ndim(parameter: nn.Parameter) -> int:
    """The number of dimensions of a parameter, of which this process may hold only a flat shard."""
    return getattr(parameter, "whole_ndim", parameter.ndim)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices and embeddings, which decay, and biases and norms, which don't.

    Weight decay pulls towards zero, and a bias or a gain need not be small.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if whole_ndim(p) >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if whole_ndim(p) < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def muon_groups(model: nn.Module, config: OptimConfig) -> list[dict[str, Any]]:
    """The matrices of the blocks as Muon takes them: those that are queries, keys and values in one, and the others.

    Raises:
        ConfigError: the model has adapters: an orthogonal update of A and one of B make none of B A.
    """
    if any(isinstance(module, LoRALinear) for module in model.modules()):
        raise ConfigError(
            "model.optim.kind muon is for whole matrices, not for LoRA's factors: set --model.optim.kind adamw"
        )
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    parameters = [p for block in blocks for p in block.parameters() if p.ndim == 2 and p.requires_grad]
    matrices_in: dict[int, int | list[int]] = {}
    for part in (part for block in blocks for part in block.modules() if isinstance(part, SelfAttention)):
        H, K, D = part.n_head, part.n_kv_head, part.head_size
        matrices_in[id(part.qkv.weight)] = 3 if H == K else [H * D, K * D, K * D]
    settings = {
        "lr": config.muon_learning_rate,
        "momentum": config.muon_momentum,
        "weight_decay": config.weight_decay,
    }
    kinds = [*{str(kind): kind for kind in matrices_in.values()}.values(), 1]
    groups = [
        {"params": [p for p in parameters if matrices_in.get(id(p), 1) == kind], "matrices": kind, **settings}
        for kind in kinds
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, config: OptimConfig, scaled: bool = False) -> AdamW:
    """What `config.kind` names, AdamW's parameters in one fused kernel where there is one.

    AdamW's groups come first, then Muon's.

    Args:
        model: whose parameters.
        config: kind and settings.
        scaled: the loss is scaled against underflow (float16). A fused kernel would unscale the gradients itself, after
            they have been clipped; without one they are unscaled before.
    """
    fused = not scaled and all(
        p.is_floating_point() and p.device.type in ("cpu", "cuda", "mps", "xpu") for p in model.parameters()
    )
    groups = parameter_groups(model, config.weight_decay)
    optimizer: type[AdamW] = AdamW
    if config.kind == "muon":
        optimizer, muon = MuonWithAdamW, muon_groups(model, config)
        taken = {id(p) for group in muon for p in group["params"]}
        for group in groups:
            group["params"] = [p for p in group["params"] if id(p) not in taken]
        groups = [group for group in groups if group["params"]] + muon
    return optimizer(
        groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), eps=config.epsilon, fused=fused
    )


def learning_rate_at(step: int, config: OptimConfig, total_steps: int | None) -> float:
    """The learning rate of an optimizer step, as a fraction of the peak: linear warm-up, then what `schedule` names.

    Args:
        step: optimizer steps done so far.
        config: warm-up, kind of schedule, and end.
        total_steps: optimizer steps in the whole run; None if unknown: the rate then stays at its peak.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if total_steps is None:
        return 1.0
    if config.schedule == "cosine":
        progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
        left = 0.5 * (1 + math.cos(math.pi * progress))
    else:
        decay_steps = min(config.decay_fraction * total_steps, total_steps - config.warmup_steps)
        left = min(1.0, max(0.0, total_steps - step) / max(1, decay_steps))
    return config.final_learning_rate_ratio + (1 - config.final_learning_rate_ratio) * left


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimConfig, total_steps: int | None
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule of `learning_rate_at`, to be stepped after each optimizer step."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_at(step, config, total_steps=total_steps)
    )
