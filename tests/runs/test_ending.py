"""A validation comes however a run ends, so that there is a best checkpoint."""

from __future__ import annotations

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import Curve, fit

from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.ending import EndPoint


class StopAt(L.Callback):
    """Ends a run as a time limit would."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.should_stop or trainer.global_step == self.step


ENDS = {
    "max_steps": {"max_steps": 4},
    "max_epochs": {"max_steps": -1, "max_epochs": 1},
    "epochs are counted": {"max_steps": -1, "max_epochs": 2, "check_val_every_n_epoch": 5, "val_check_interval": 1.0},
    "min_epochs": {"max_steps": -1, "max_epochs": 1, "min_epochs": 1},
    "time is counted": {"max_steps": -1, "max_epochs": 1, "val_check_interval": "00:10:00:00"},
    "accumulation": {"max_steps": -1, "max_epochs": 1, "accumulate_grad_batches": 3},
}


@pytest.mark.parametrize("options", ENDS.values(), ids=ENDS)
def test_a_run_that_was_never_validated_is_at_its_end(tmp_path, options):
    curve = Curve()
    _, trainer = fit(tmp_path, end := EndPoint(), curve=curve, **{"val_check_interval": 500, **options})
    steps = [step for name, step in curve.values if name == "validation/loss"]
    assert steps == [trainer.global_step]
    assert read_checkpoint(tmp_path / "checkpoints" / "best.ckpt")["global_step"] == trainer.global_step
    assert trainer.check_val_every_n_epoch == options.get("check_val_every_n_epoch"), "as it was"
    assert not end.is_reached


@pytest.mark.parametrize("epochs", [None, 5])
def test_so_is_one_that_something_else_ends(tmp_path, epochs):
    options = {"max_steps": -1, "max_epochs": 4, "check_val_every_n_epoch": epochs}
    options["val_check_interval"] = 500 if epochs is None else 1.0
    curve = Curve()
    _, trainer = fit(tmp_path, StopAt(3), EndPoint(), curve=curve, **options)
    assert trainer.global_step == 3
    assert [step for name, step in curve.values if name == "validation/loss"] == [3]


@pytest.mark.parametrize("name", ["kept", "last"])
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 3}], ids=str)
def test_a_run_goes_on_from_the_validation_at_its_end(tmp_path, options, name):
    """From `last.ckpt`, and from what another callback keeps within that validation."""
    options = {"max_steps": -1, "val_check_interval": 500, **options}
    whole, longer = fit(tmp_path, EndPoint(), max_epochs=2, **options)
    steps, checkpoint = longer.global_step // 2, tmp_path / "checkpoints" / f"{name}.ckpt"
    kept_best = ModelCheckpoint(checkpoint.parent, filename="kept", monitor="validation/loss")
    fit(tmp_path, StopAt(steps), EndPoint(), kept_best, max_epochs=2, **options)
    assert read_checkpoint(checkpoint)["global_step"] == steps
    kept = checkpoint.read_bytes()
    weights, again = fit(tmp_path, EndPoint(), max_epochs=2, ckpt=checkpoint, **options)
    assert again.global_step == longer.global_step == 2 * steps
    assert all(torch.equal(value, weights[name]) for name, value in whole.items())
    checkpoint.write_bytes(kept)
    _, ended = fit(tmp_path, EndPoint(), max_epochs=1, ckpt=checkpoint, **options)
    assert ended.global_step == steps, "nothing is left"


def test_a_run_that_was_validated_is_not_validated_once_more(tmp_path):
    curve = Curve()
    fit(tmp_path, EndPoint(), curve=curve, max_steps=5)
    assert [step for name, step in curve.values if name == "validation/loss"] == [3]
    fit(tmp_path, EndPoint(), curve=(later := Curve()), max_steps=7, val_check_interval=500,
        ckpt=tmp_path / "checkpoints" / "last.ckpt")  # fmt: skip
    assert not [step for name, step in later.values if name == "validation/loss"], "there was one before"
