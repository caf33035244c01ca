"""The LightningModule: what a training step is, what is logged of it, and what a checkpoint holds besides weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from llm.config import GPTConfig, OptimConfig, SamplingConfig
from llm.data.reading.prompts import Prompt
from llm.data.windows import Batch
from llm.generation import Continuation, continue_texts, log_probabilities
from llm.model import GPT
from llm.pretrained import adapt, read_pretrained
from llm.pretrained.checkpoint import ENTRY, describe
from llm.runs.processes import refuse_muon_in_pieces, total_norm
from llm.runs.resuming import SETTINGS, refuse_what_does_not_fit, settings_of
from llm.runtime.hardware import flops_per_token
from llm.runtime.randomness import seed_batch
from llm.training.compiling import Compiled
from llm.training.loss import ToGradient, head_loss, to_gradient, to_gradient_in_one
from llm.training.metrics import EvaluatedModule
from llm.training.non_finite import StepGuard
from llm.training.optimizer import build_optimizer, build_schedule, remember_shapes
from llm.training.trainer_state import is_logging, log_now, steps_of

_GPT = GPTConfig()
_OPTIM = OptimConfig()
_SAMPLING = SamplingConfig()


class LanguageModel(EvaluatedModule):
    """Trains a GPT to predict the next token.

    Args:
        gpt: the architecture.
        optim: optimizer and learning rate.
        sampling: how text is generated, in samples while training and by `predict`.
        compile: fuse what comes before the head, and the loss, with torch.compile: up to a minute to begin with, then
            faster steps. Where that can't be done, a line says why, and the run goes on without.
        pretrained: begin with these weights: a checkpoint, a Hugging Face GPT-2 folder, nanoGPT's or the book's
            file, or `gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`. On the command line, architecture and tokenizer
            come from there too.
        non_finite: what to do at a step whose loss or gradient is infinite or not a number (NaN): `stop` the run
            before the weights are spoilt, or `skip` the step and count it. Either way the batch is written to the
            folder `non_finite` of the run.

    Raises:
        CheckpointError: the weights can't be read.
        ConfigError: they are of another architecture.
    """

    def __init__(
        self,
        gpt: GPTConfig = _GPT,
        optim: OptimConfig = _OPTIM,
        sampling: SamplingConfig = _SAMPLING,
        compile: bool = False,
        pretrained: str | None = None,
        non_finite: Literal["stop", "skip"] = "stop",
    ) -> None:
        super().__init__()
        self.gpt = GPT(gpt)
        if pretrained is not None:
            found = read_pretrained(pretrained, {"n_head": gpt.n_head})
            self.gpt.load_state_dict(adapt(found, gpt).weights)
        self.optim = optim
        self.sampling = sampling
        self.compile_model = compile
        self.guard = StepGuard(non_finite)
        self._features: Callable[[Tensor], Tensor] = self.gpt.hidden_states
        self._to_gradient: ToGradient = to_gradient
        self._to_log: list[Tensor] = []  # (loss, accuracy) of each batch of a step that will be logged
        self.prediction: Literal["continuations", "log_probabilities"] = "continuations"
        self._noted: dict[str, Tensor | float] = {}  # what is logged once the step is made

    @property
    def tokenizer(self) -> Any:
        """The data module's tokenizer, or None where the run has no data module of ours."""
        return getattr(getattr(self._trainer, "datamodule", None), "tokenizer", None)

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids `(B, T)` -> logits `(B, T, V)`."""
        return self.gpt(ids)

    def setup(self, stage: str) -> None:
        """Compile, if asked to, what training calls; the module itself, its names and its hooks stay as they are."""
        self._to_log.clear()
        remember_shapes(self.gpt)
        self.guard.begin()
        if self.compile_model and stage == "fit":
            self._features = Compiled(self.gpt.hidden_states)
            self._to_gradient = Compiled(to_gradient_in_one, to_gradient)

    @property
    def flops_per_token(self) -> float:
        """Floating point operations that a token of a training step needs."""
        return flops_per_token(self.gpt.config, self.gpt.n_parameters)

    @property
    def is_logging(self) -> bool:
        """Whether this step's values are due to be logged."""
        return is_logging(self.trainer)

    # Training

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw dropout from (seed, batch, process) alone, so that a resumed run repeats it."""
        del batch, batch_idx
        seed_batch(self.trainer.fit_loop.total_batch_idx, self.global_rank, self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of one batch of windows."""
        del batch_idx
        inputs, targets = batch
        x = self._features(inputs)
        loss, accuracy = head_loss(self.gpt.head, x, targets, self.is_logging, self._to_gradient)
        self.guard.watch(self.trainer.fit_loop.total_batch_idx, batch, loss.detach())
        if accuracy is not None:
            self._to_log.append(torch.stack([loss.detach(), accuracy]))
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Note the loss that this step's gradient is of: the mean over its batches, on all processes."""
        del optimizer
        if self._to_log:
            mine = torch.stack(self._to_log).mean(dim=0)  # (batches, 2) -> (2)
            self._to_log.clear()
            loss, accuracy = self.trainer.strategy.reduce(mine, reduce_op="mean")
            self.note("train/loss", loss)
            self.note("train/perplexity", loss.exp())
            self.note("train/token_accuracy", accuracy)

    def note(self, name: str, value: Tensor | float) -> None:
        """A value of this step, for the progress bar now and for the loggers when the step is made."""
        self.log(name, value, logger=False)
        self._noted[name] = value

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Make a step, and log what was noted of it: before a checkpoint can be written, so that no curve has a gap.

        Values are logged under the number of steps made. (Lightning would log them after the checkpoint, one below.)
        """
        super().optimizer_step(*args, **kwargs)
        if self._noted:
            log_now(self.trainer, self._noted, step=self.trainer.global_step + 1)
            self._noted = {}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip, and log the norm from before; or stop, or leave the step out, where loss or gradients are not finite.

        Raises:
            TrainingError: a loss or a gradient is infinite or not a number, and `non_finite` is `stop`.
        """
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        norm = total_norm(gradients, self.trainer.strategy, self.device)
        size = self.guard.admit(self, optimizer, norm)
        if self.is_logging and self.guard.action == "skip":
            self.note("train/skipped_steps", float(self.guard.skipped))
        if size is None:
            return
        if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            if not size <= gradient_clip_val:  # else each gradient would be multiplied by one
                torch.nn.utils.clip_grads_with_norm_(parameters, float(gradient_clip_val), norm)
        elif gradient_clip_val:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        if self.is_logging:
            self.note("train/gradient_norm", norm)
            self.note("train/learning_rate", optimizer.param_groups[0]["lr"])
            if self.optim.kind == "muon":
                self.note("train/muon_learning_rate", optimizer.param_groups[-1]["lr"])

    @property
    def has_loss_scaler(self) -> bool:
        """Whether the loss is scaled against underflow (float16)."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """What `optim` describes, with learning rates that change at every optimizer step."""
        refuse_muon_in_pieces(self.trainer.strategy, self.optim)
        optimizer = build_optimizer(self.gpt, self.optim, scaled=self.has_loss_scaler)
        schedule = build_schedule(optimizer, self.optim, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps in the run, or None if only a time limit or an interrupt will end it."""
        return steps_of(self.trainer)

    # Prediction

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

    # Checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> Self:
        """The module of a checkpoint. Lightning's own way would unpickle what it finds behind a URL, code included.

        Raises:
            CheckpointError: it can't be read; `llm.load` reads the same files.
        """
        found = read_pretrained(checkpoint_path)
        module = cls(found.config)
        module.gpt.load_state_dict(found.weights)
        return module

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the architecture and the tokenizer, so that the file alone is enough to generate; and the settings."""
        checkpoint[ENTRY] = describe(self.gpt.config, self.tokenizer)
        checkpoint[ENTRY][SETTINGS] = settings_of(self.trainer, self.optim)
        checkpoint[ENTRY]["skipped_steps"] = self.guard.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make sure that the weights belong to this architecture and tokenizer, and the rest to this run.

        Raises:
            CheckpointError: they don't, and says what differs; or a run is to go on from what holds no run.
        """
        refuse_what_does_not_fit(checkpoint, self)
        self.guard.restore(checkpoint[ENTRY].get("skipped_steps"))
