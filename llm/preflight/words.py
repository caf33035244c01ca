"""What a training step of word vectors costs: it reads rows of words with contexts and noise, and has no layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llm.config import OptimConfig, WordVectorsConfig
from llm.data.batch import TokenBatch
from llm.data.contexts import ContextBatch, contexts_of
from llm.model import WordVectors
from llm.model.trained import ALL, Trained
from llm.preflight.memory import Parameters
from llm.preflight.timing import Measured, time_steps
from llm.runtime.counting import TRUE_PRECISIONS, Costs, count_costs
from llm.tasks import WordVectorsModule


def word_parameters(config: WordVectorsConfig, optim: OptimConfig, trained: Trained = ALL) -> Parameters:
    """Count on no device.

    Raises:
        ConfigError: `trained` names what is not in the network.
    """
    with torch.device("meta"):
        return Parameters.of_network(_module(config, trained).network, optim)


def word_costs(
    config: WordVectorsConfig, data: dict[str, Any], precision: str, device: str, trained: Trained = ALL
) -> Costs:
    """Count the costs of a step on a batch whose rows have all their words.

    Args:
        config: the architecture.
        data: settings of the data module: `batch_size`, `context_length`, `n_noise`.
        precision: Lightning's name for it.
        device: its kind.
        trained: what is not frozen.
    """
    module = WordVectorsModule(replace(config, vocab_size=1))  # whose metrics can't be made without values

    def build() -> WordVectors:
        network = WordVectors(config)
        trained.apply_to(network)
        return network

    def forward(network: WordVectors) -> Tensor:
        module.network = network  # type: ignore[assignment]
        return _loss(module, _batch(config, data))

    return count_costs(build, forward, precision, device)


def measure_words(
    config: WordVectorsConfig,
    optim: OptimConfig,
    data: dict[str, Any],
    precision: str,
    device: str,
    trained: Trained = ALL,
) -> Measured:
    """Make a few steps with a throwaway copy of the network, on random words."""
    module = _module(config, trained).to(device, TRUE_PRECISIONS.get(precision))
    batch = ContextBatch(*(part.to(device) for part in _batch(config, data)))
    return time_steps(module.network, optim, lambda: _loss(module, batch), precision, device)


def _module(config: WordVectorsConfig, trained: Trained) -> WordVectorsModule:
    return WordVectorsModule(config, train=list(trained.words))


def _batch(config: WordVectorsConfig, data: dict[str, Any]) -> ContextBatch:
    B, T, N = data["batch_size"], data["context_length"], data["n_noise"]
    words = torch.randint(config.vocab_size, (B, T + N))
    ids, noise = words[:, :T].contiguous(), words[:, T:].contiguous()
    others, sizes = contexts_of(np.full((B, T), max(1, data["window"] // 2)), np.full(B, T))
    return ContextBatch(ids, ids, torch.full((B,), T), torch.tensor(others), torch.tensor(sizes), noise)


def _loss(module: WordVectorsModule, batch: ContextBatch) -> Tensor:
    words: TokenBatch = batch  # type: ignore[assignment]  # a batch of a kind of its own
    prediction = module.loss_of(module.hidden_states(words), words)
    return prediction.loss / prediction.n_tokens
