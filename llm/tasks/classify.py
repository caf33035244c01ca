"""Labels: the task of a GPT with a head that reads the last token of a text."""

from __future__ import annotations

import logging
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
from llm.pretrained.checkpoint import ENTRY
from llm.tasks.base import TaskModule
from llm.training.class_metrics import ClassMetrics
from llm.training.loss import Prediction

_GPT = ClassifierConfig()
_OPTIM = OptimConfig()
_LORA = LoRAConfig()

_BEST = "best_validation"
"""Of the entry of a checkpoint."""

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
        self._best: tuple[float, float, Tensor] | None = None  # loss, accuracy, and how many texts got each label (N)

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
        is_better = self._best is None or loss < self._best[0]
        if split == "validation" and not self.trainer.sanity_checking and is_better:
            self._best = loss, values["accuracy"], self._predicted(split)
        return values

    # Against what needs no network

    def on_fit_end(self) -> None:
        """Say how the best validation compares with the baselines."""
        if self.trainer.is_global_zero and self._best is not None:
            self._compare("validation", *self._best[1:])

    def on_test_end(self) -> None:
        """Say how the test compares with the baselines."""
        if self.trainer.is_global_zero:
            accuracy = float(self.trainer.callback_metrics["test/accuracy"])
            self._compare("test", accuracy, self._predicted("test"))

    def _predicted(self, split: str) -> Tensor:
        """How many texts of a split were given each label, (N)."""
        return self.class_metrics[split].confusion.sum(0)  # (N, N) -> (N)

    def _compare(self, split: str, accuracy: float, predicted: Tensor) -> None:
        data = getattr(self._trainer, "datamodule", None)
        if not isinstance(data, ClassifyDataModule) or data.overfits or (found := baselines_of(data, split)) is None:
            return
        log.info(
            "accuracy:    %.1f %% (%s); Naive Bayes %.1f %%, the most frequent label %.1f %%",
            *(100 * accuracy, split, 100 * found.naive_bayes, 100 * found.majority),
        )
        if accuracy <= max(found):
            better = "Naive Bayes" if found.naive_bayes >= found.majority else "the most frequent label"
            log.warning("this is no better than %s, which needs no network: the run shows nothing yet", better)
        if int((predicted > 0).sum()) == 1:
            label = self.labels[int(predicted.argmax())]
            log.warning("every text was given the label %r; with rare labels, try --data.balance oversample", label)

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As for every task, and the best validation so far."""
        super().on_save_checkpoint(checkpoint)
        if self._best is not None:
            loss, accuracy, predicted = self._best
            checkpoint[ENTRY][_BEST] = {"loss": loss, "accuracy": accuracy, "predicted": predicted.tolist()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As for every task, and the best validation so far, where a run goes on."""
        super().on_load_checkpoint(checkpoint)
        match checkpoint[ENTRY].get(_BEST):
            case {"loss": float(loss), "accuracy": float(accuracy), "predicted": list(predicted)} if len(
                predicted
            ) == len(self.labels) and all(isinstance(count, int) for count in predicted):
                self._best = loss, accuracy, torch.tensor(predicted)
