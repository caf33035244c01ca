"""The architecture of Llama's descendants, as small as can be, for the tests of this folder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llm.config import GPTConfig

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LLAMA = {
    "vocab_size": 31,
    "context_length": 24,
    "n_layer": 3,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 16,
    "head_size": 6,
    "mlp_hidden": 20,
    "mlp": "gated",
    "activation": "silu",
    "norm": "rms_norm",
    "positions": "rotary",
    "bias": False,
    "qkv_bias": False,
    "dropout": 0.0,
}


def config_of(**options: Any) -> GPTConfig:
    return GPTConfig(**(LLAMA | options))


def ids_of(rows: int, length: int) -> Tensor:
    return torch.randint(31, (rows, length), generator=torch.Generator().manual_seed(2))
