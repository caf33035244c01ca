"""Floating-point operations that a token needs in a training step: by formula, or counted on the network."""

from __future__ import annotations

import torch
from torch import Tensor

from llm.config import GPTConfig
from llm.model import Network
from llm.model.networks import inputs_of
from llm.model.trained import Trained, trained_network
from llm.runtime.counting import count_costs


def flops_per_token(config: GPTConfig, n_parameters: int) -> float:
    """Operations that training needs for one token, forward and backward: 6 N + 12 L H Q T.

    N are the parameters that are multiplied with: not the positions, nor a token embedding of its own, which are
    looked up. L layers, H heads of size Q, context length T. The whole square of attention scores counts, though a
    causal mask spares half of it; recomputation does not (PaLM: Chowdhery et al. 2022, appendix B).

    Args:
        config: the architecture.
        n_parameters: all of them, shared ones once.
    """
    looked_up = config.context_length * config.n_embd if config.positions == "learned" else 0
    if not config.tie_head:
        looked_up += config.padded_vocab_size * config.n_embd
    n_multiplied = n_parameters - looked_up
    return 6.0 * n_multiplied + 12.0 * config.n_layer * config.heads * config.head_dim * config.context_length


def counted_flops_per_token(config: GPTConfig, trained: Trained) -> float:
    """Operations for one token of a full row, forward and backward, head included; a translator's source is as long.

    Args:
        config: the architecture.
        trained: what is not frozen.
    """

    def forward(network: Network) -> Tensor:
        ids = torch.zeros(1, config.context_length, dtype=torch.int64)
        return network(*inputs_of(network, ids)).float().sum()

    costs = count_costs(lambda: trained_network(config, trained), forward, "32-true", "cpu")
    return costs.flops / config.context_length
