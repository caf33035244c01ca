"""Models for the tests of this folder."""

from __future__ import annotations

import torch
from torch import nn

from llm.config import GPTConfig
from llm.model import GPT


def make(config: GPTConfig, seed: int = 0, std: float = 0.3) -> GPT:
    """A GPT in eval mode whose weights are large enough for every part of it to matter."""
    torch.manual_seed(seed)
    model = GPT(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=std)
    return model
