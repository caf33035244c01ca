"""The progress bar."""

from __future__ import annotations

import io
import sys
import time
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, Timer
from tqdm import tqdm

from llm.training.throughput import side_work_seconds
from llm.training.time_left import TimeLeft
from llm.training.trainer_state import is_logging, steps_between_validations, steps_of

_SECONDS_BETWEEN_LINES = 10.0


class StartingPoint(L.Callback):
    """Logs the validation before the first step (Lightning's sanity check, which it doesn't log)."""

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log it as step 0."""
        del pl_module
        if trainer.global_step > 0:  # a finished run that is resumed is validated again
            return
        found = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("validation")
        }
        for logger in trainer.loggers:
            logger.log_metrics(found, step=0)


class RunProgress(ProgressBar):
    """One bar over all steps of a run: loss, validation loss, tokens/s, time left.

    Where the output is not a terminal, a line every ten seconds instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self._bar: _Bar | None = None
        self._enabled = True
        self._printed = 0.0
        self._time = TimeLeft()

    def disable(self) -> None:
        """Show nothing from here on."""
        self._enabled = False

    def enable(self) -> None:
        """Show something again."""
        self._enabled = True

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin at the step that the run is at."""
        del pl_module
        self._bar = self._make(steps_of(trainer), trainer.global_step, "train", "step")
        self._time = TimeLeft(steps_between_validations(trainer))

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Move on to the step that the run is at."""
        del pl_module
        if self._bar is not None:
            # Reading a value synchronizes with the GPU: only when there is a new one.
            if is_logging(trainer):
                self._bar.set_postfix_str(values_of(trainer), refresh=False)
            left = seconds_allowed(trainer)
            if self._bar.total:
                now, step, side = time.monotonic(), trainer.global_step, side_work_seconds(trainer)
                of_steps = self._time.after_step(now, step, side, int(self._bar.total))
                left = of_steps if of_steps is None or left is None else min(left, of_steps)
            self._bar.left = left
            self._bar.update(trainer.global_step - self._bar.n)
            self._print_line()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the last state standing."""
        del pl_module
        if self._bar is not None:
            self._bar.set_postfix_str(values_of(trainer))
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
        """Count validation batches, unless this is a validation during training."""
        del pl_module
        if trainer.state.fn == "validate":
            self._bar = self._make(sum(map(int, trainer.num_val_batches)), 0, "validate", "batch")

    def on_test_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Count one."""
        del trainer, pl_module
        if self._bar is not None:
            self._bar.update()

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Count one, unless this is a validation during training."""
        if trainer.state.fn == "validate":
            self.on_test_batch_end(trainer, pl_module)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar standing."""
        del trainer, pl_module
        self._close()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Leave the bar standing; show what a validation during training found."""
        del pl_module
        if trainer.state.fn == "validate":
            self._close()
        elif self._bar is not None and not trainer.sanity_checking:
            self._time.validated(trainer.global_step)
            self._bar.set_postfix_str(values_of(trainer))

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print above the bar."""
        if self._enabled:
            tqdm.write(" ".join(map(str, args)), **{"file": sys.stderr, **kwargs})

    def _make(self, total: int | None, initial: int, name: str, unit: str) -> _Bar:
        shown = sys.stderr.isatty()
        return _Bar(
            desc=name,
            total=total,
            initial=initial,
            unit=unit,
            disable=not self._enabled,
            dynamic_ncols=True,
            file=sys.stderr if shown else io.StringIO(),
            mininterval=0.1 if shown else 1e9,
            bar_format="{desc} {n_fmt}/{total_fmt} {bar:20} {elapsed}<{left}{postfix}",
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
            if not last and bar.left is not None:
                parts.append(f"{state['left']} left")
            parts += [bar.postfix] if bar.postfix else []
            print(", ".join(parts), file=sys.stderr, flush=True)


class _Bar(tqdm):
    """A bar that is told how many seconds are left; where it is not, it goes by its own rate."""

    left: float | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        """What its format may name."""
        state: dict[str, Any] = super().format_dict
        left, rate = self.left, state["rate"]
        if left is None and self.unit == "batch" and rate and self.total:
            left = (self.total - self.n) / rate
        return {**state, "left": "?" if left is None else self.format_interval(left)}


def seconds_allowed(trainer: L.Trainer) -> float | None:
    """How long a run may still take by its time limit (`max_time`); None where it has none."""
    timers = (callback for callback in trainer.callbacks if isinstance(callback, Timer))  # type: ignore[attr-defined]
    left = (timer.time_remaining() for timer in timers)
    return min((max(0.0, seconds) for seconds in left if seconds is not None), default=None)


def values_of(trainer: L.Trainer) -> str:
    """The losses and the rate of a run, as far as they are known."""
    metrics = trainer.callback_metrics
    names = {
        "train/loss": "loss {:.3f}",
        "validation/loss": "validation {:.3f}",
        "train/tokens_per_second": "{:,.0f} tokens/s",
    }
    return ", ".join(text.format(float(metrics[name])) for name, text in names.items() if name in metrics)
