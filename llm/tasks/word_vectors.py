"""Word vectors: learned from the words around each word, apart from any other model."""

from __future__ import annotations

from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.config import OptimConfig, WordVectorsConfig
from llm.config.tasks import WORD_VECTORS
from llm.data.batch import TokenBatch
from llm.data.contexts import ContextBatch
from llm.model import WordVectors
from llm.tasks.base import TaskModule
from llm.training.loss import Prediction

_WORDS = WordVectorsConfig()
_OPTIM = OptimConfig(learning_rate=0.02, weight_decay=0.0, beta2=0.999)


class WordVectorsModule(TaskModule):
    """Trains word vectors to tell the words around a word from noise: negative sampling (Mikolov et al. 2013, eq. 4).

    The noise words of a row are shared by all its pairs, each weighted so that a pair has `negatives` of them on
    average: the same objective with less variance, as matrix products.

    Args:
        words: the architecture.
        optim: optimizer and learning rate.
        non_finite: what to do at a step whose loss or gradient is NaN or infinite: `stop` the run before the weights
            become NaN, or `skip` the step and count it. Either way the batch is written to the
            folder `non_finite` of the run.
        train: which parameters are trained: `all`, or names and patterns, such as `predicted`.

    Raises:
        ConfigError: `train` names what is not there.
    """

    task = WORD_VECTORS
    network_config = WordVectorsConfig

    def __init__(
        self,
        words: WordVectorsConfig = _WORDS,
        optim: OptimConfig = _OPTIM,
        non_finite: Literal["stop", "skip"] = "stop",
        train: list[str] | str | None = None,
    ) -> None:
        super().__init__(WordVectors(words), optim, non_finite=non_finite, train=train)  # type: ignore[arg-type]

    def step_values(self, loss: Tensor, accuracy: float | None) -> dict[str, Tensor | float]:
        """The loss: pairs are no tokens among V, so that there is no perplexity."""
        del accuracy
        return {"loss": loss}

    def split_values(self, split: str) -> dict[str, float]:
        """The loss."""
        return {"loss": super().split_values(split)["loss"]}

    @property
    def words(self) -> WordVectors:
        """The network."""
        return cast(WordVectors, self.network)

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """What predicts: `(B, T, C)`."""
        words = _as_contexts(batch)
        return self.words(words.inputs, words.others, words.sizes)

    def loss_of(
        self, hidden_states: Tensor, batch: TokenBatch, with_accuracy: bool = False, scale: float = 1.0
    ) -> Prediction:
        """The loss summed over pairs, each of a word in a context and what predicts it, in nats.

        A pair costs -log sigmoid(logit) and, for each of its noise words, -log sigmoid(-logit). A pair is correct if
        its logit is above 0, that is if the word is taken for one of the context rather than for noise.
        """
        words = _as_contexts(batch)
        around = self.words.predicted(words.inputs)  # (B, T) -> (B, T, C)
        if self.words.config.objective == "skip_gram":
            n_pairs = words.sizes  # (B, T)
            logits = (hidden_states @ around.mT).flatten()[_pairs(words)]  # (B, T, C) x (B, C, T) -> (B T T) -> (P)
            costs, is_correct = F.softplus(-logits.float()), logits > 0  # (P)
        else:
            n_pairs = words.sizes.clamp_max(1)  # (B, T), a context and its word in the middle
            logits = (hidden_states * around).sum(-1)  # (B, T, C) -> (B, T)
            costs, is_correct = F.softplus(-logits.float()) * n_pairs, (logits > 0) & (n_pairs > 0)  # (B, T)
        noise = hidden_states @ self.words.predicted(words.noise).mT  # (B, T, C) x (B, C, N) -> (B, T, N)
        of_noise = F.softplus(noise.float()).sum(-1) * n_pairs  # (B, T, N) -> (B, T)
        loss = costs.sum() + of_noise.sum() * (self.words.config.negatives / words.noise.shape[1])
        return Prediction(loss * scale, n_pairs.sum(), is_correct.sum() if with_accuracy else None)


def _pairs(words: ContextBatch) -> Tensor:
    """(P) where among the B T T logits, from the word in the middle to all of its row, those of its context are."""
    n_words, T = words.inputs.numel(), words.inputs.shape[1]
    place = torch.arange(n_words, device=words.others.device)
    middle = place.repeat_interleave(words.sizes.flatten(), output_size=len(words.others))  # (B T) -> (P)
    return middle * T + words.others % T


def _as_contexts(batch: TokenBatch) -> ContextBatch:
    assert isinstance(batch, ContextBatch)
    return batch
