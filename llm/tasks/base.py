"""What every task's LightningModule shares: optimizer, clipping, NaN/Inf guard, logging, compiling, checkpoints."""

from __future__ import annotations

import dataclasses
import functools
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor

from llm.config import LoRAConfig, OptimConfig
from llm.config.tasks import NEXT_TOKEN_TASKS
from llm.data.batch import TokenBatch
from llm.errors import CheckpointError, ConfigError, LLMError
from llm.model import Network
from llm.model.networks import is_known
from llm.model.trained import Trained
from llm.pretrained import begin_with
from llm.pretrained.adapters import leave_out_base
from llm.pretrained.checkpoint import BASE, ENTRY, describe, model_type_of, task_of, trained_of, weights_of
from llm.pretrained.formats import read_with_base
from llm.runs.finding import keep_rate_of_checkpoint, refuse_batch_size_finder
from llm.runs.processes import refuse_adapters_in_pieces, refuse_muon_in_pieces
from llm.runs.resuming import SETTINGS, refuse_what_does_not_fit, settings_of
from llm.runtime.compiling import Compiled
from llm.runtime.randomness import seed_batch
from llm.training.flops import counted_flops_per_token
from llm.training.fused_loss import CrossEntropyWithGrad
from llm.training.gradient import StepGradient, StepMade
from llm.training.loss import (
    Prediction,
    compiled_cross_entropy,
    cross_entropy_with_grad_,
    head_loss,
)
from llm.training.metrics import SplitMetrics
from llm.training.optimizer import build_optimizer, build_schedule, remember_shapes
from llm.training.step import loss_scale
from llm.training.trainer_state import has_loss_scaler, is_accumulating, is_logging, log_now, steps_of

log = logging.getLogger("llm")

_OPTIM = OptimConfig()
_LORA = LoRAConfig()


class TaskModule(L.LightningModule):
    """A network and how it is trained. A task says what its hidden states are and what the loss of a batch is.

    Args:
        network: what is trained: plain torch.
        optim: optimizer and learning rate.
        compile: whether to compile what training calls.
        non_finite: what to do at a step whose loss or gradient is NaN or infinite: `stop` or `skip`.
        train: which parameters are trained; see `llm.model.trained`.
        lora: the adapters, if there are to be any.
        pretrained: begin with these weights.

    Raises:
        CheckpointError: the weights can't be read.
        ConfigError: they are of another architecture; or `train` or `lora.modules` names what is not in the network.
    """

    task: ClassVar[str]
    """The word of the task in `TASKS`."""
    network_config: ClassVar[type]
    """The dataclass of its architecture, which is the first argument of the task's class."""
    architectures: ClassVar[Mapping[str, type]] = MappingProxyType({})
    """Of a task that can be done by several networks, the dataclass of each by the argument that it is; the argument
    `kind` says which is used."""
    starts_from: ClassVar[tuple[str, ...]] = NEXT_TOKEN_TASKS
    """The tasks whose weights it can begin with, where it has a setting `pretrained`."""
    grows_vocabulary: ClassVar[bool] = False
    """Whether these weights may have fewer tokens than the run: it adds special tokens to their vocabulary."""
    new_parts: ClassVar[tuple[str, ...]] = ()
    """Patterns of names of what no pre-training knows, such as a head for labels: trained whatever `train` says."""

    def __init__(
        self,
        network: Network,
        optim: OptimConfig = _OPTIM,
        compile: bool = False,
        non_finite: Literal["stop", "skip"] = "stop",
        train: Sequence[str] | str | None = None,
        lora: LoRAConfig = _LORA,
        pretrained: str | None = None,
    ) -> None:
        super().__init__()
        self.model_type: str | None = None  # of the family of Hugging Face's that the first weights were of
        if pretrained is not None:
            begun = begin_with(network, pretrained, self.starts_from, self.grows_vocabulary)
            lora, self.model_type = lora.with_new_tokens(begun.n_new), begun.model_type
        self.trained = Trained(train, lora, self.new_parts)
        self.trained.apply_to(network)
        self.network = network
        self.pretrained = pretrained  # what the frozen weights were read from
        self.optim = optim
        self.compile_network = compile
        self.gradient = StepGradient(non_finite)
        self.cross_entropy: CrossEntropyWithGrad = cross_entropy_with_grad_
        self._compiled: dict[str, Callable[..., Tensor]] = {}
        self._split_metrics = {split: SplitMetrics(split) for split in ("validation", "test")}
        self._to_log: dict[str, Tensor | float] = {}  # of this step, once it is made
        self.measured: dict[str, Any] = {}
        """At the last validation or test, by full name: what is logged, and what else the end of a run tells of."""

    # What a task says.

    @abstractmethod
    def hidden_states(self, batch: TokenBatch) -> Tensor:
        """The hidden states of a batch, (B, T, C), which the head reads. This is compiled, if anything is."""

    def loss_of(
        self, hidden_states: Tensor, batch: TokenBatch, with_accuracy: bool = False, scale: float = 1.0
    ) -> Prediction:
        """The summed loss of a batch, times `scale`: by default the cross-entropy of the tokens in its targets."""
        head, transform = self.network.output_layer, self.network.before_output
        return head_loss(head, hidden_states, batch.targets, with_accuracy, scale, self.cross_entropy, transform)

    @property
    def tokenizer(self) -> Any:
        """The data module's tokenizer, or None where the run has no data module of ours."""
        return getattr(getattr(self._trainer, "datamodule", None), "tokenizer", None)

    @functools.cached_property
    def flops_per_token(self) -> float | None:
        """Floating-point operations that a token of a training step needs, head included; counted. None if unknown."""
        config = self.network.config
        return counted_flops_per_token(config, self.trained) if is_known(type(config)) else None

    def predict_step(self, batch: Any, batch_idx: int) -> Any:
        """A task that `predict` can do says so here.

        Raises:
            ConfigError: it can't.
        """
        del batch, batch_idx
        raise ConfigError(f"predict does nothing with the task {self.task}")

    # Training

    def setup(self, stage: str) -> None:
        """Compile what training calls, if asked to; the network, its parameter names and its hooks are unchanged."""
        self.gradient.begin_run()
        if self._trainer is not None:
            refuse_batch_size_finder(self._trainer)
            refuse_adapters_in_pieces(self._trainer.strategy, self.trained.lora)
        remember_shapes(self.network)
        if self.compile_network and stage == "fit":
            self._compiled["hidden_states"] = Compiled(self.hidden_states)
            device = self.device if self._trainer is None else self._trainer.strategy.root_device
            self.cross_entropy = compiled_cross_entropy(device)

    def is_compiled(self, part: Literal["hidden_states", "cross_entropy"]) -> bool:
        """Whether a part of the training step really has been compiled."""
        called: Any = self.cross_entropy if part == "cross_entropy" else self._compiled.get(part)
        return getattr(called, "is_compiled", False)

    def on_fit_start(self) -> None:
        """Refuse to leave weights out of checkpoints that no file has.

        Raises:
            ConfigError: `lora.adapter_only` without `pretrained`.
        """
        if self.trained.lora.adapter_only and self.pretrained is None:
            raise ConfigError(
                "model.lora.adapter_only leaves the frozen weights to the file that model.pretrained names: give it, "
                "or let checkpoints hold all"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout from (seed, batch, process) alone, so that a resumed run repeats it."""
        del batch, batch_idx
        seed_batch(self.trainer.fit_loop.total_batch_idx, self.global_rank, self.device)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of one micro-batch: its sum over supervised tokens, scaled; see `llm.training.step`."""
        del batch_idx
        batch, scale = TokenBatch.of(batch), loss_scale(self.trainer)
        hidden_states = self._compiled.get("hidden_states", self.hidden_states)(batch)
        prediction = self.loss_of(hidden_states, batch, self.gradient.counts_correct(self.trainer), scale)
        self.judge_last_step()  # the device is busy with this one, and the last one's gradients are still there
        if batch.lengths is not None and is_logging(self.trainer):
            self.note("train/padding_fraction", 1 - batch.lengths.sum() / batch.inputs.numel())
        self.gradient.add(self.trainer, batch, prediction, scale)
        return prediction.loss * self.trainer.accumulate_grad_batches  # by which Lightning divides it

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Divide the gradients by the supervised tokens of the step, clip, and log the norm from before clipping; or
        stop, or skip the step, where loss or gradients are not finite.

        Raises:
            TrainingError: a loss or a gradient is NaN or infinite, and `non_finite` is `stop`.
        """
        clip = gradient_clip_val, gradient_clip_algorithm
        made = self.gradient.finish(self.trainer, optimizer, self.named_parameters(), self.tokenizer, *clip)
        if is_logging(self.trainer):
            self._note_step(optimizer, made)

    def judge_last_step(self) -> None:
        """Judge the step that the optimizer took last, if that was put off; see `llm.training.judging`.

        Raises:
            TrainingError: its loss or its gradients are NaN or infinite, and `non_finite` is `stop`.
        """
        self.gradient.judge_last_step(self.trainer, self.named_parameters(), self.tokenizer)

    def _note_step(self, optimizer: torch.optim.Optimizer, made: StepMade | None) -> None:
        if self.gradient.guard.action == "skip":
            self.note("train/skipped_steps", float(self.gradient.guard.skipped))
        if self.gradient.unsupervised_batches:
            self.note("train/batches_without_targets", float(self.gradient.unsupervised_batches))
        if made is None:
            return
        for name, value in self.step_values(torch.tensor(made.loss), made.accuracy).items():
            self.note(f"train/{name}", value)
        self.note("train/step/gradient_norm", made.norm)
        self.note("train/step/learning_rate", optimizer.param_groups[0]["lr"])
        if self.optim.kind == "muon":
            self.note("train/step/muon_learning_rate", optimizer.param_groups[-1]["lr"])

    def step_values(self, loss: Tensor, accuracy: float | None) -> dict[str, Tensor | float]:
        """What is logged of a step, by name, from its mean loss and its accuracy, where that was counted."""
        values: dict[str, Tensor | float] = {"loss": loss, "perplexity": loss.exp()}
        return values if accuracy is None else {**values, "token_accuracy": accuracy}

    def note(self, name: str, value: Tensor | float) -> None:
        """A value of this step, for the progress bar now and for the loggers when the step is made."""
        self.log(name, value, logger=False)
        self._to_log[name] = value

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and log its values: before a checkpoint can be written, so that no curve has a gap.

        Values are logged under the number of steps made. (Lightning would log them after the checkpoint, one below.)
        """
        super().optimizer_step(*args, **kwargs)
        if self._to_log:
            log_now(self.trainer, self._to_log, step=self.trainer.global_step + 1)
            self._to_log = {}

    def on_validation_model_zero_grad(self) -> None:
        """Judge the last step while its gradients are there."""
        self.judge_last_step()
        super().on_validation_model_zero_grad()

    def on_train_end(self) -> None:
        """Judge the last step."""
        self.judge_last_step()

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """The optimizer that `optim` describes, with a learning rate schedule stepped at every optimizer step."""
        refuse_muon_in_pieces(self.trainer.strategy, self.optim)
        optimizer = build_optimizer(self.network, self.optim, scaled=has_loss_scaler(self.trainer))
        schedule = build_schedule(optimizer, self.optim, self.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def learning_rate(self) -> float:
        """The peak learning rate of `optim`, under the name by which Lightning's tuner sets it."""
        return self.optim.learning_rate

    @learning_rate.setter
    def learning_rate(self, rate: float) -> None:
        log.info("learning rate set to %.3g, was %.3g", rate, self.optim.learning_rate)
        self.optim = dataclasses.replace(self.optim, learning_rate=rate)
        if self._trainer is not None and self._trainer.optimizers:
            self._trainer.strategy.setup_optimizers(self._trainer)

    def on_train_start(self) -> None:
        """Begin with the rates of the schedule; Lightning's tuner, which sets one, knows no warm-up."""
        for optimizer, schedule in zip(self.trainer.optimizers, self.trainer.lr_scheduler_configs, strict=True):
            for group, rate in zip(optimizer.param_groups, schedule.scheduler.get_last_lr(), strict=True):
                group["lr"] = rate

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps in the run, or None if only a time limit or an interrupt will end it."""
        return steps_of(self.trainer)

    # Validation and test

    def on_validation_epoch_start(self) -> None:
        """Reset the validation metrics."""
        self.begin_split("validation")

    def on_test_epoch_start(self) -> None:
        """Reset the test metrics."""
        self.begin_split("test")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch to the validation metrics."""
        del batch_idx
        self.add_to_split(TokenBatch.of(batch), "validation")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Add one batch to the test metrics."""
        del batch_idx
        self.add_to_split(TokenBatch.of(batch), "test")

    def on_validation_epoch_end(self) -> None:
        """Log the metrics over all validation tokens."""
        self.log_split("validation")

    def on_test_epoch_end(self) -> None:
        """Log the metrics over all test tokens."""
        self.log_split("test")

    def begin_split(self, split: str) -> None:
        """Reset the metrics of a split; a task with metrics of its own resets them here."""
        self.measured = {}
        self._split_metrics[split].begin(self.device)

    def add_to_split(self, batch: TokenBatch, split: str) -> None:
        """Add one batch to the metrics of a split; a task with metrics of its own adds to them here."""
        prediction = self.loss_of(self.hidden_states(batch), batch, with_accuracy=True)
        self._split_metrics[split].update(prediction)

    def split_values(self, split: str) -> dict[str, float]:
        """What is logged of a split, by name, now that all its batches have been added."""
        bytes_of = getattr(getattr(self.trainer, "datamodule", None), "bytes_per_token", None)
        return self._split_metrics[split].values(None if bytes_of is None else bytes_of(split))

    def log_split(self, split: str) -> None:
        """Log the metrics of a split, now that all its batches have been added."""
        if self.trainer.sanity_checking and self._split_metrics[split].is_empty:  # a few batches, nothing supervised
            return
        values = self.split_values(split)
        self.log_values({f"{split}/{name}": float(value) for name, value in values.items()})

    def log_values(self, found: dict[str, float]) -> None:
        """Log values of a validation or a test, the same on all processes, by their full names."""
        amid_training = self.trainer.state.fn == "fit"
        # All processes have the same values; without `sync_dist` Lightning would warn.
        self.log_dict(found, sync_dist=True, logger=not amid_training)
        if self.trainer.sanity_checking:
            return
        self.measured |= found
        if amid_training:
            # A validation while gradients are being accumulated counts to the step to come, as the last checkpoint is
            # that of the step made: a run that resumes from there makes it again. (A metric `step`, Lightning's own way
            # to say the step, would also name the checkpoints of ModelCheckpoint, until the next validation.)
            log_now(self.trainer, found, step=self.trainer.global_step + is_accumulating(self.trainer))

    # Checkpoints

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: Any, *_: Any, **__: Any) -> Self:
        """The module of a checkpoint. Lightning's own method would unpickle what a URL points to, code included.

        Raises:
            CheckpointError: it can't be read, is another task's, or its weights do not fit its architecture.
        """
        checkpoint = read_with_base(checkpoint_path)
        if (found := task_of(checkpoint)) != cls.task:
            raise CheckpointError(f"{str(checkpoint_path)!r} is a checkpoint of the task {found!r}, not {cls.task!r}")
        try:
            entry, trained = checkpoint[ENTRY], trained_of(checkpoint)
            module = cls.of_architecture(str(entry.get("architecture")), entry["network"])
            trained.apply_to(module.network)
            module.trained, module.model_type = trained, model_type_of(checkpoint)
            module.network.load_state_dict(weights_of(checkpoint))
        except (TypeError, KeyError, RuntimeError, LLMError) as error:
            raise CheckpointError(f"{str(checkpoint_path)!r} holds a network that can't be built: {error}") from error
        return module

    @classmethod
    def of_architecture(cls, name: str, settings: dict[str, Any]) -> Self:
        """A module with a new network: of the class of configuration of this name, with these settings."""
        del name  # a task with several says which
        return cls(cls.network_config(**settings))

    def _frozen(self) -> dict[str, Tensor]:
        """The frozen parameters, by name; a shared one has several."""
        parameters = self.network.named_parameters(remove_duplicate=False)
        return {name: parameter for name, parameter in parameters if not parameter.requires_grad}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add task, architecture and tokenizer, so that the file alone is enough to use it; and the settings."""
        self.judge_last_step()
        checkpoint[ENTRY] = describe(self.network.config, self.tokenizer, self.task, self.model_type)
        if not self.trained.is_all:
            checkpoint[ENTRY]["trained"] = self.trained.to_dict()
        if self.trained.lora.adapter_only and "state_dict" in checkpoint and self.pretrained is not None:
            leave_out_base(checkpoint, self._frozen(), self.pretrained)
        checkpoint[ENTRY][SETTINGS] = settings_of(self.trainer, self.optim)
        checkpoint[ENTRY] |= self.gradient.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make sure that the weights belong to this architecture and tokenizer, and the rest to this run.

        Raises:
            CheckpointError: they don't, and says what differs; or a run is to resume from weights alone.
        """
        run = self.tokenizer, self.optim, self._trainer
        refuse_what_does_not_fit(checkpoint, self.task, self.network, self.trained, *run)
        if self._trainer is not None:
            keep_rate_of_checkpoint(self._trainer)
        self.model_type = model_type_of(checkpoint)
        if (base := checkpoint[ENTRY].get(BASE)) is not None:
            self.pretrained = base["source"]
        self.gradient.restore(checkpoint[ENTRY])
