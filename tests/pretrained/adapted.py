"""Checkpoints with adapters, as a run would have written them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from llm.config import GPTConfig, LoRAConfig
from llm.model import Network
from llm.model.lora import lora_layers
from llm.model.trained import Trained, trained_network
from llm.pretrained.checkpoint import ENTRY, checkpoint_of, write_checkpoint
from llm.tokenizers import BPETokenizer, Tokenizer

TINY = GPTConfig(vocab_size=50257, context_length=8, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
EVERYWHERE = LoRAConfig(rank=3, alpha=12, modules=("qkv", "projection", "expand"))


def adapted(trained: Trained, config: GPTConfig = TINY, seed: int = 0) -> Network:
    """A network on the base of seed 0, whose adapters and other trained parameters are as if they had been trained."""
    torch.manual_seed(0)
    network = trained_network(config, trained).eval()
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.2)
    assert list(lora_layers(network)) or not trained.lora.rank
    return network


def write(network: Network, trained: Trained, path: Path, tokenizer: Tokenizer | None = None) -> Path:
    """Its checkpoint."""
    checkpoint = checkpoint_of(network.config, network.state_dict(), tokenizer or BPETokenizer("gpt2"))
    if not trained.is_all:
        checkpoint[ENTRY]["trained"] = trained.to_dict()
    write_checkpoint(checkpoint, path)
    return path


def base(path: Path, config: GPTConfig = TINY) -> Path:
    """The checkpoint of the base alone."""
    torch.manual_seed(0)
    return write(trained_network(config, Trained()), Trained(), path)
