"""Which network a configuration is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llm.config import ClassifierConfig, EncoderConfig, GPTConfig, RNNConfig, TransformerConfig
from llm.model.base import Network
from llm.model.classifier import Classifier
from llm.model.encoder import Encoder
from llm.model.encoder_decoder import EncoderDecoder
from llm.model.gpt import GPT
from llm.model.rnn import RNN
from llm.model.transformer import Transformer

NETWORKS: dict[type[GPTConfig] | type[RNNConfig], Callable[[Any], Network]] = {
    GPTConfig: GPT,
    EncoderConfig: Encoder,
    ClassifierConfig: Classifier,
    TransformerConfig: Transformer,
    RNNConfig: RNN,
}
"""The class of network behind each class of configuration."""


def build_network(config: GPTConfig | RNNConfig) -> Network:
    """The network that a configuration is of, its weights new."""
    return NETWORKS[type(config)](config)


def inputs_of(network: Network, ids: Tensor) -> tuple[Any, ...]:
    """What a network reads, of token ids (B, T): a translator besides, without lengths, a source that is as long."""
    return (ids, None, torch.zeros_like(ids)) if isinstance(network, EncoderDecoder) else (ids,)


def is_known(kind: type) -> bool:
    """Whether a network goes with a class of configuration."""
    return kind in NETWORKS


def config_class(name: str) -> type[Any] | None:
    """The class of configuration by its name, as checkpoints hold it; None where no network goes with it."""
    return next((kind for kind in NETWORKS if kind.__name__ == name), None)
