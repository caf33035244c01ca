"""How fast a run is, and how far."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from llm.data.windows import Batch
from llm.training.hardware import finish, flops_per_token, peak_flops
from llm.training.module import LanguageModel
from llm.training.trainer_state import is_logging, log_now

_SECONDS_BETWEEN_LINES = 10.0


class StartingPoint(L.Callback):
    """Logs the validation before the first step, which Lightning makes but does not log, so that curves begin at 0."""

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log it as step 0."""
        del pl_module
        if trainer.global_step > 0:  # a run that goes on from its end is looked at again
            return
        found = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("validation")
        }
        for logger in trainer.loggers:
            logger.log_metrics(found, step=0)


class Throughput(L.Callback):
    """Logs `train/tokens_per_second` over the steps since it was last logged, and what share of the device that is.

    The share is `train/model_flops_utilization`: the operations that the tokens need (`flops_per_token`) by those that
    the device could have done (`PEAK_FLOPS`; where the device is not in that table, it is not logged).

    Validation, inspection, samples and checkpoints are not counted; waiting for data is. Before a clock is read, the
    device finishes its work.
    """

    def __init__(self) -> None:
        self._tokens = 0
        self._start: float | None = None
        self._validation_start = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Forget a run before this one."""
        del trainer, pl_module
        self._start = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count the tokens of a batch."""
        del outputs, batch_idx
        assert isinstance(pl_module, LanguageModel)
        if self._start is None:  # the first batch is slower: kernels are chosen, memory is found
            self._restart(pl_module)
            return
        self._tokens += batch[0].numel() * trainer.world_size
        if pl_module.is_logging:
            finish(pl_module.device)
            seconds = time.perf_counter() - self._start - pl_module.side_work_seconds
            values = {"train/tokens_per_second": self._tokens / seconds}
            if peak := peak_flops(pl_module.device, str(trainer.precision)):
                flops = self._tokens / trainer.world_size * self._flops_per_token(pl_module)
                values["train/model_flops_utilization"] = flops / seconds / peak
            pl_module.log_dict(values, logger=False)
            log_now(trainer, values, trainer.global_step)
            self._restart(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Validation is not training time."""
        del trainer
        finish(pl_module.device)
        self._validation_start = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Training time goes on."""
        del trainer
        assert isinstance(pl_module, LanguageModel)
        pl_module.side_work_seconds += time.perf_counter() - self._validation_start

    def _flops_per_token(self, module: LanguageModel) -> float:
        return flops_per_token(module.gpt.config, module.gpt.n_parameters)

    def _restart(self, module: LanguageModel) -> None:
        finish(module.device)
        self._tokens, module.side_work_seconds, self._start = 0, 0.0, time.perf_counter()


class RunProgress(ProgressBar):
    """One bar over all steps of a run: loss, validation loss, tokens/s, time left.

    Where nobody watches (the output goes to a file), a line every ten seconds instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: tqdm[Any] | None = None
        self._enabled = True
        self._printed = 0.0
        self._first: tuple[float, int] | None = None  # when the first step was made, which may be slow, and which

    def disable(self) -> None:
        """Show nothing from here on."""
        self._enabled = False

    def enable(self) -> None:
        """Show something again."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the step that the run is at."""
        del pl_module
        self._bar, self._first = self._make(self._total(trainer), trainer.global_step, "train", "step"), None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Move on to the step that the run is at."""
        del pl_module
        if self._bar is not None:
            # Reading a value makes a GPU finish its work: only when there is a new one.
            if is_logging(trainer):
                self._bar.set_postfix_str(self._values(trainer), refresh=False)
            self._bar.update(trainer.global_step - self._bar.n)
            self._print_line()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the last state standing."""
        del pl_module
        if self._bar is not None:
            self._bar.set_postfix_str(self._values(trainer))
            self._print_line(last=True)
            self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Make room for the message."""
        del trainer, pl_module, exception
        self._close()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count test batches."""
        del pl_module
        self._bar = self._make(sum(map(int, trainer.num_test_batches)), 0, "test", "batch")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count validation batches, unless this is a validation amid training."""
        del pl_module
        if trainer.state.fn == "validate":
            self._bar = self._make(sum(map(int, trainer.num_val_batches)), 0, "validate", "batch")

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Count one."""
        del trainer, pl_module
        if self._bar is not None:
            self._bar.update()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Count one, unless this is a validation amid training."""
        if trainer.state.fn == "validate":
            self.on_test_batch_end(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar standing."""
        del trainer, pl_module
        self._close()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar standing, unless this was a validation amid training."""
        del pl_module
        if trainer.state.fn == "validate":
            self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), **{"file": sys.stderr, **kwargs})

    def _make(self, total: int | None, initial: int, name: str, unit: str) -> tqdm[Any]:
        shown = sys.stderr.isatty()
        return tqdm(
            desc=name,
            total=total,
            initial=initial,
            unit=unit,
            disable=not self._enabled,
            dynamic_ncols=True,
            file=sys.stderr if shown else io.StringIO(),
            mininterval=0.1 if shown else 1e9,
            bar_format="{desc} {n_fmt}/{total_fmt} {bar:20} {elapsed}<{remaining}{postfix}",
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _print_line(self, last: bool = False) -> None:
        bar = self._bar
        if bar is None or not self._enabled or sys.stderr.isatty():
            return
        now = time.monotonic()
        if last or now - self._printed >= _SECONDS_BETWEEN_LINES:
            self._printed = now
            state = bar.format_dict
            parts = [f"step {state['n']}/{state['total'] or '?'}"]
            if self._first is not None and state["n"] > self._first[1] and now > self._first[0]:
                rate = (state["n"] - self._first[1]) / (now - self._first[0])
                left = max(0, (state["total"] or 0) - state["n"])
                parts.append(f"{tqdm.format_interval(left / rate)} left")
            parts += [bar.postfix] if bar.postfix else []
            print(", ".join(parts), file=sys.stderr, flush=True)
        if self._first is None and bar.n > bar.initial:
            self._first = now, bar.n

    def _values(self, trainer: L.Trainer) -> str:
        metrics = trainer.callback_metrics
        names = {
            "train/loss": "loss {:.3f}",
            "validation/loss": "validation {:.3f}",
            "train/tokens_per_second": "{:,.0f} tokens/s",
        }
        return ", ".join(text.format(float(metrics[name])) for name, text in names.items() if name in metrics)

    def _total(self, trainer: L.Trainer) -> int | None:
        module = trainer.lightning_module
        return module.total_steps if isinstance(module, LanguageModel) else None
