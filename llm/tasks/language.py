"""Next tokens: the task of a GPT."""

from __future__ import annotations

import functools
from typing import Literal, cast

from torch import Tensor

from llm.config import GPTConfig, LoRAConfig, OptimConfig, SamplingConfig
from llm.config.tasks import LANGUAGE
from llm.data.batch import TokenBatch
from llm.data.reading.prompts import Prompt
from llm.generation import Continuation, continue_texts, log_probabilities
from llm.model import GPT
from llm.tasks.base import TaskModule
from llm.training.flops import flops_per_token

_GPT = GPTConfig()
_OPTIM = OptimConfig()
_LORA = LoRAConfig()
_SAMPLING = SamplingConfig()


class LanguageModel(TaskModule):
    """Trains a GPT to predict the next token.

    Args:
        gpt: the architecture.
        optim: optimizer and learning rate.
        sampling: how text is generated, in samples while training and by `predict`.
        compile: fuse what comes before the head, and the loss, with torch.compile: up to a minute to begin with, then
            faster steps. Where that can't be done, a line says why, and the run continues without.
        pretrained: begin with these weights: a checkpoint, a Hugging Face folder, nanoGPT's or the book's
            file, or `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`. On the command line, architecture and tokenizer
            come from there too.
        non_finite: what to do at a step whose loss or gradient is NaN or infinite: `stop` the run before the weights
            become NaN, or `skip` the step and count it. Either way the batch is written to the
            folder `non_finite` of the run.
        train: which parameters are trained: `all`, `head`, `last_block` (with the norm and the head that follow it,
            unless that head shares the token embedding), `lora`, or patterns of parameter names such as `blocks.3.*`;
            several add up. Default: `lora` where `lora.rank` is above 0, else `all`.
        lora: low-rank adapters beside frozen weights.

    Raises:
        CheckpointError: the weights can't be read.
        ConfigError: they are of another architecture.
    """

    task = LANGUAGE
    network_config = GPTConfig

    def __init__(
        self,
        gpt: GPTConfig = _GPT,
        optim: OptimConfig = _OPTIM,
        sampling: SamplingConfig = _SAMPLING,
        compile: bool = False,
        pretrained: str | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
        train: list[str] | str | None = None,
        lora: LoRAConfig = _LORA,
    ) -> None:
        super().__init__(GPT(gpt), optim, compile, non_finite, train, lora, pretrained)
        self.sampling = sampling
        self.prediction: Literal["continuations", "log_probabilities"] = "continuations"

    @property
    def gpt(self) -> GPT:
        """The network."""
        return cast(GPT, self.network)

    @functools.cached_property
    def flops_per_token(self) -> float:
        """Floating-point operations that a token of a training step needs, as they are counted for utilization."""
        if not self.trained.is_all:
            return cast(float, super().flops_per_token)
        return flops_per_token(self.gpt.config, self.gpt.n_parameters)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids `(B, T)` -> logits `(B, T, V)`."""
        return self.gpt(ids)

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """The hidden states `(B, T, C)`, which the head reads."""
        return self.gpt.hidden_states(batch.inputs, batch.lengths, documents=batch.documents)

    def predict_step(self, batch: list[Prompt], batch_idx: int) -> list[Continuation] | list[Tensor]:
        """What `prediction` says, for a batch of prompts.

        Returns:
            The continuations of all prompts, in order; or for each prompt of T tokens the log-probabilities (T - 1)
            of all but the first, in nats.
        """
        del batch_idx
        if self.prediction == "log_probabilities":
            return [log_probabilities(self.gpt, prompt.ids) for prompt in batch]
        ids = [prompt.ids for prompt in batch]
        return list(continue_texts(self.gpt, self.tokenizer, ids, self.sampling, batch_size=len(ids)))
