"""Labels: the task of a GPT with a head that reads the last token of a text."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from llm.config import ClassifierConfig, LoRAConfig, OptimConfig
from llm.config.tasks import CLASSIFY, NEXT_TOKEN_TASKS
from llm.data.batch import IGNORED, TokenBatch
from llm.data.modules.classify import ClassifyDataModule
from llm.evaluation.baselines import baselines_of
from llm.model import Classifier, last_real
from llm.runs.checkpointing import best_validation
from llm.tasks.base import TaskModule
from llm.training.class_metrics import ClassMetrics
from llm.training.loss import Prediction

_GPT = ClassifierConfig()
_OPTIM = OptimConfig()
_LORA = LoRAConfig()

log = logging.getLogger("llm")


class TextClassifier(TaskModule):
    """Trains a GPT to say which label a text has, from the hidden state of its last token.

    Args:
        gpt: the architecture.
        optim: optimizer and learning rate.
        compile: fuse what comes before the head with torch.compile: up to a minute to begin with, then faster steps.
            Where that can't be done, a line says why, and the run continues without.
        pretrained: begin with these weights: a checkpoint of a language model or of a classifier, a Hugging Face GPT-2
            folder, nanoGPT's or the book's file, or `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`. The head is new,
            unless the labels are the same. On the command line, architecture and tokenizer come from there too.
        non_finite: what to do at a step whose loss or gradient is NaN or infinite: `stop` the run before the weights
            become NaN, or `skip` the step and count it. Either way the batch is written to the
            folder `non_finite` of the run.
        train: which parameters are trained, beside the head: `all`, `head` (nothing else), `last_block` (with the norm
            that follows it), `lora`, or patterns of parameter names such as `blocks.3.*`; several add up. Default:
            `lora` where `lora.rank` is above 0, else `all`.
        lora: low-rank adapters beside frozen weights.

    Raises:
        CheckpointError: the weights can't be read.
        ConfigError: they are of another architecture.
    """

    task = CLASSIFY
    network_config = ClassifierConfig
    starts_from = (*NEXT_TOKEN_TASKS, CLASSIFY)
    new_parts = ("head",)

    def __init__(
        self,
        gpt: ClassifierConfig = _GPT,
        optim: OptimConfig = _OPTIM,
        compile: bool = False,
        pretrained: str | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
        train: list[str] | str | None = None,
        lora: LoRAConfig = _LORA,
    ) -> None:
        super().__init__(Classifier(gpt), optim, compile, non_finite, train, lora, pretrained)
        self.class_metrics = {split: ClassMetrics(len(gpt.labels)) for split in ("validation", "test")}

    @property
    def classifier(self) -> Classifier:
        """The network."""
        return cast(Classifier, self.network)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of the logits."""
        return self.classifier.config.labels

    def forward(self, ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Token ids `(B, T)`, of which `lengths` (B) are real -> logits `(B, N)`."""
        return self.classifier(ids, lengths)

    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """What the head reads: the hidden state of the last real token of each text, `(B, C)`."""
        return self.classifier.pooled(batch.inputs, batch.lengths)

    def loss_of(
        self, hidden_states: Tensor, batch: TokenBatch, with_accuracy: bool = False, scale: float = 1.0
    ) -> Prediction:
        """The summed cross-entropy of the labels, weighted where the data says so, times `scale`."""
        del with_accuracy  # it costs nothing
        return self._predict(hidden_states, batch, scale)[0]

    def _predict(
        self, hidden_states: Tensor, batch: TokenBatch, scale: float = 1.0
    ) -> tuple[Prediction, Tensor, Tensor]:
        logits = self.classifier.head(hidden_states)  # (B, C) -> (B, N)
        targets = last_real(batch.targets, batch.lengths)  # (B, T) -> (B)
        weights = getattr(getattr(self._trainer, "datamodule", None), "class_weights", None)
        weight = None if weights is None else torch.tensor(weights, device=logits.device)
        loss = F.cross_entropy(logits.float(), targets, weight, ignore_index=IGNORED, reduction="sum") * scale
        n_correct = (logits.detach().argmax(-1) == targets).sum()
        return Prediction(loss, (targets != IGNORED).sum(), n_correct), logits, targets

    # Metrics

    def step_values(self, loss: Tensor, accuracy: float | None) -> dict[str, Tensor | float]:
        """By name: loss in nats of a text, and accuracy."""
        return {"loss": loss} if accuracy is None else {"loss": loss, "accuracy": accuracy}

    def begin_split(self, split: str) -> None:
        """Reset the metrics of a split."""
        super().begin_split(split)
        self.class_metrics[split].begin(self.device)

    def add_to_split(self, batch: TokenBatch, split: str) -> None:
        """Add one batch to the metrics of a split."""
        prediction, logits, targets = self._predict(self.hidden_states(batch), batch)
        self._split_metrics[split].update(prediction)
        self.class_metrics[split].update(logits, targets)

    def split_values(self, split: str) -> dict[str, float]:
        """By name: loss, accuracy, balanced accuracy, F1, and AUROC where there are two labels."""
        loss, _ = self._split_metrics[split].compute()
        values = {"loss": loss, **self.class_metrics[split].values()}
        self.measured[f"{split}/predicted"] = self.class_metrics[split].confusion.sum(0).tolist()  # (N, N) -> (N)
        return values

    # Against what needs no network

    def on_fit_end(self) -> None:
        """Say how the best validation compares with the baselines."""
        self._compare("validation", *best_validation(self.trainer))

    def on_test_end(self) -> None:
        """Say how the test compares with the baselines."""
        self._compare("test", "test", self.measured)

    def _compare(self, split: str, where: str, measured: Mapping[str, Any]) -> None:
        """Compare what was measured of a split, `where` in words."""
        data = getattr(self._trainer, "datamodule", None)
        accuracy, predicted = measured.get(f"{split}/accuracy"), measured.get(f"{split}/predicted")
        if accuracy is None or predicted is None or not self.trainer.is_global_zero:
            return
        if not isinstance(data, ClassifyDataModule) or data.overfits or (found := baselines_of(data, split)) is None:
            return
        log.info(
            "accuracy:    %.1f %% (%s); Naive Bayes %.1f %%, the most frequent label %.1f %%",
            *(100 * accuracy, where, 100 * found.naive_bayes, 100 * found.majority),
        )
        if accuracy <= max(found):
            better = "Naive Bayes" if found.naive_bayes >= found.majority else "the most frequent label"
            log.warning("this is no better than %s, which needs no network: the run shows nothing yet", better)
        given = [label for label, count in zip(self.labels, predicted, strict=True) if count]
        if len(given) == 1:
            log.warning("every text was given the label %r; with rare labels, try --data.balance oversample", *given)
