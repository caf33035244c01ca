"""Masked words: the task of an encoder that sees both sides."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor

from llm.config import EncoderConfig, LoRAConfig, OptimConfig
from llm.config.tasks import MASKED
from llm.data.batch import TokenBatch
from llm.model import Encoder
from llm.tasks.base import TaskModule

_ENCODER = EncoderConfig()
_OPTIM = OptimConfig()
_LORA = LoRAConfig()


class MaskedLanguageModel(TaskModule):
    """Trains an encoder to predict masked words from both sides, as BERT (Devlin et al. 2018, section 3.1).

    Args:
        encoder: the architecture.
        optim: optimizer and learning rate.
        compile: fuse what comes before the head, and the loss, with torch.compile: up to a minute to begin with, then
            faster steps. Where that can't be done, a line says why, and the run continues without.
        pretrained: begin with these weights: a checkpoint of this task, or a Hugging Face folder of BERT. On the
            command line, architecture and tokenizer come from there too.
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

    task = MASKED
    network_config = EncoderConfig
    starts_from = (task,)

    def __init__(
        self,
        encoder: EncoderConfig = _ENCODER,
        optim: OptimConfig = _OPTIM,
        compile: bool = False,
        pretrained: str | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
        train: list[str] | str | None = None,
        lora: LoRAConfig = _LORA,
    ) -> None:
        super().__init__(Encoder(encoder), optim, compile, non_finite, train, lora, pretrained)

    @property
    def encoder(self) -> Encoder:
        """The network."""
        return cast(Encoder, self.network)

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Token ids `(B, T)`, of which `lengths` (B) are real -> logits `(B, T, V)`."""
        return self.encoder(ids, lengths)

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """What the head reads: `(B, T, C)`."""
        return self.encoder.hidden_states(batch.inputs, batch.lengths)
