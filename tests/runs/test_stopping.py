"""A run that gets a signal saves itself, and goes on as if it had not."""

from __future__ import annotations

import signal

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EMAWeightAveraging
from tiny_runs import Curve, Kill, fit, fit_until_stopped


class Signal(L.Callback):
    """Sends a signal to this process at one moment of a run."""

    def __init__(self, hook: str, count: int, number: int = signal.SIGTERM) -> None:
        self.hook, self.count, self.number = hook, count, number

    def _hook(self, name: str, trainer: L.Trainer) -> None:
        if name == self.hook:
            self.count -= 1
            if self.count == 0:
                signal.raise_signal(self.number)

    def on_train_batch_start(self, trainer, *_):
        self._hook("step", trainer)

    def on_validation_batch_start(self, trainer, *_):
        self._hook("validation", trainer)

    def on_save_checkpoint(self, trainer, *_):
        self._hook("save", trainer)


EPOCHS = {"max_steps": -1, "max_epochs": 3, "val_check_interval": 1.0, "check_val_every_n_epoch": 1}
EMA = {"decay": 0.8}
MOMENTS = [
    *(("step", step) for step in (1, 2, 3, 4, 6, 8)),
    *(("validation", batch) for batch in (1, 2, 4, 5)),
    *(("save", save) for save in (1, 2)),
]


@pytest.mark.parametrize("options", [{}, EPOCHS, {"accumulate_grad_batches": 2}, {"ema": EMA}], ids=str)
def test_a_run_that_was_stopped_at_any_moment_has_the_same_curve_and_weights(tmp_path, options):
    options = dict(options)
    ema = options.pop("ema", None)
    averaging = lambda: [EMAWeightAveraging(**ema)] if ema else []  # noqa: E731
    whole = Curve()
    weights, _ = fit(tmp_path, *averaging(), curve=whole, **options)
    assert any(name == "validation/loss" for name, _ in whole.values)
    for hook, count in MOMENTS:
        first, second = Curve(), Curve()
        checkpoint = fit_until_stopped(tmp_path, *averaging(), Signal(hook, count), curve=first, **options)
        resumed, _ = fit(tmp_path, *averaging(), ckpt=checkpoint, curve=second, **options)
        different = [name for name, value in weights.items() if not torch.equal(value, resumed[name])]
        assert not different, (hook, count)
        assert {**first.values, **second.values} == whole.values, (hook, count)
        assert not first.values.keys() & second.values.keys(), (hook, count)


def test_a_validation_that_was_made_again_is_not_made_a_third_time(tmp_path):
    weights, _ = fit(tmp_path, curve=(whole := Curve()))
    first, second, third = Curve(), Curve(), Curve()
    checkpoint = fit_until_stopped(tmp_path, Signal("validation", 2), curve=first)
    assert ("validation/loss", 3) not in first.values
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path, Kill(1), ckpt=checkpoint, curve=second)
    assert ("validation/loss", 3) in second.values
    resumed, _ = fit(tmp_path, ckpt=checkpoint, curve=third)
    assert ("validation/loss", 3) not in third.values
    assert {**first.values, **second.values, **third.values} == whole.values
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
