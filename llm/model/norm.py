"""Normalization: each vector to one length, then a trained gain."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from llm.config import GPTConfig
from llm.model.functions import rms_norm


class RMSNorm(nn.RMSNorm):
    """Divides each vector by its root mean square, and multiplies by a trained gain."""

    def forward(self, x: Tensor) -> Tensor:
        """Along the last axis: the shape does not change."""
        return rms_norm(x, self.weight, self.eps)


class ZeroCenteredRMSNorm(RMSNorm):
    """As `RMSNorm`, with a gain of 1 + w, so that weights start at 0, which weight decay pulls them to."""

    def reset_parameters(self) -> None:
        """Start at a gain of 1."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Along the last axis: the shape does not change."""
        return rms_norm(x.float(), 1.0 + self.weight.float(), self.eps).type_as(x)


def query_key_norms(config: GPTConfig) -> tuple[nn.Parameter | None, RMSNorm | None, RMSNorm | None]:
    """What normalized queries and keys are multiplied by: one gain of the scores, or a norm of each; see `qk_norm`."""
    if not config.qk_norm:
        return None, None, None
    if config.qk_gain == "separate":
        query_norm, key_norm = (RMSNorm(config.head_dim, eps=config.norm_epsilon) for _ in range(2))
        return None, query_norm, key_norm
    T = max(2, config.context_length)  # begins as in Henry et al. 2020, section 3: a perfect match beats all others
    return nn.Parameter(torch.tensor([math.log2(T * T - T)])), None, None  # (1), since FSDP can't shard a scalar


def build_norm(config: GPTConfig) -> nn.Module:
    """The normalization that `config.norm` names, over vectors of size C."""
    if config.norm == "none":
        return nn.Identity()
    if config.norm == "rms_norm":
        return RMSNorm(config.n_embd, eps=config.norm_epsilon)
    if config.norm == "zero_centered_rms_norm":
        return ZeroCenteredRMSNorm(config.n_embd, eps=config.norm_epsilon)
    return nn.LayerNorm(config.n_embd, eps=config.norm_epsilon, bias=config.bias)
