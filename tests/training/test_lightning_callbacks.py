"""Lightning's own callbacks beside ours: early stopping, the best k checkpoints, averaged weights, through a kill."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from processes import errors_of, start, wait_for_checkpoint
from tiny_runs import STEPS, Curve, Kill, fit

import llm
from llm.errors import CheckpointError
from llm.pretrained.checkpoint import read_checkpoint, weights_of

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty.*", "ignore:.*callbacks used to create.*")

WORSE = {"learning_rate": 3.0}
"""With steps this long the validation loss rises."""


def stop_early() -> EarlyStopping:
    return EarlyStopping("validation/loss", patience=4)


def best_two(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder / "best", monitor="validation/loss", save_top_k=2)


def averaged() -> EMAWeightAveraging:
    return EMAWeightAveraging(decay=0.7)


def kill(folder: Path, step: int, *callbacks, **options) -> Path:
    """A run that ended where a step began; gives the checkpoint to go on from."""
    with pytest.raises(RuntimeError, match="killed"):
        fit(folder, *callbacks, Kill(step), **options)
    return folder / "checkpoints" / "last.ckpt"


@pytest.mark.parametrize("killed_at", [2, 3, 5])
def test_early_stopping_stops_after_the_same_step(tmp_path, killed_at):
    options = {"optim": WORSE, "val_check_interval": 1, "max_steps": 50}
    weights, whole = fit(tmp_path, stop_early(), **options)
    assert 5 <= whole.global_step < 50
    checkpoint = kill(tmp_path, killed_at, stop_early(), **options)
    resumed, trainer = fit(tmp_path, stop_early(), ckpt=checkpoint, **options)
    assert trainer.global_step == whole.global_step
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


def test_a_run_that_stopped_early_stays_so(tmp_path):
    options = {"optim": WORSE, "val_check_interval": 1, "max_steps": 50}
    weights, whole = fit(tmp_path, stop_early(), **options)
    resumed, trainer = fit(tmp_path, stop_early(), ckpt=tmp_path / "checkpoints" / "last.ckpt", **options)
    assert trainer.global_step == whole.global_step
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    _, longer = fit(tmp_path, ckpt=tmp_path / "checkpoints" / "last.ckpt", **options)
    assert longer.global_step == 50, "without the callback it goes on"


@pytest.mark.parametrize("killed_at", [3, 5, 8])
def test_the_best_k_are_the_same_files_with_the_same_weights(tmp_path, killed_at):
    options = {"val_check_interval": 2}
    keeper = best_two(tmp_path)
    fit(tmp_path, keeper, **options)
    expected = {Path(path).name: float(loss) for path, loss in keeper.best_k_models.items()}
    assert len(expected) == 2
    weights = {name: read_checkpoint(tmp_path / "best" / name)["state_dict"] for name in expected}
    shutil.rmtree(tmp_path / "best")
    checkpoint = kill(tmp_path, killed_at, best_two(tmp_path), **options)
    keeper = best_two(tmp_path)
    fit(tmp_path, keeper, ckpt=checkpoint, **options)
    assert {Path(path).name: float(loss) for path, loss in keeper.best_k_models.items()} == expected
    assert {path.name for path in (tmp_path / "best").iterdir()} == set(expected)
    for name, before in weights.items():
        again = read_checkpoint(tmp_path / "best" / name)["state_dict"]
        assert all(torch.equal(value, again[key]) for key, value in before.items())


def test_one_of_the_best_k_is_a_checkpoint_to_go_on_from(tmp_path):
    whole = Curve()
    weights, _ = fit(tmp_path, best_two(tmp_path), curve=whole)
    first = min((tmp_path / "best").iterdir(), key=lambda path: path.stat().st_mtime)
    step = read_checkpoint(first)["global_step"]
    curve = Curve()
    resumed, _ = fit(tmp_path, best_two(tmp_path), ckpt=first, curve=curve)
    assert curve.values == {key: value for key, value in whole.values.items() if key[1] > step}
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())


@pytest.mark.parametrize("killed_at", [4, 6, 8])
def test_averaged_weights_go_on(tmp_path, killed_at):
    weights, _ = fit(tmp_path, averaged(), curve=(whole := Curve()))
    plain, _ = fit(tmp_path)
    assert any(not torch.equal(value, plain[name]) for name, value in weights.items())
    checkpoint = kill(tmp_path, killed_at, averaged())
    resumed, _ = fit(tmp_path, averaged(), ckpt=checkpoint, curve=(curve := Curve()))
    assert all(torch.equal(value, resumed[name]) for name, value in weights.items())
    assert curve.values.items() <= whole.values.items()


def test_the_weights_of_a_checkpoint_are_the_average(tmp_path):
    weights, _ = fit(tmp_path, averaged())
    last = tmp_path / "checkpoints" / "last.ckpt"
    content = read_checkpoint(last)
    trained = content["current_model_state"]
    assert any(not torch.equal(value, trained[f"network.{name}"]) for name, value in weights_of(content).items())
    model, _ = llm.load(last)
    for name, value in model.state_dict().items():
        assert torch.equal(value, weights[f"network.{name}"]), "training, too, ends with the average"
    with pytest.raises(CheckpointError, match="average over steps"):
        fit(tmp_path, ckpt=last, max_steps=STEPS + 1)


def test_from_the_command_line_all_of_them_go_on(tmp_path):
    words = [
        "--trainer.max_steps=60",
        "--trainer.callbacks+=EarlyStopping",
        "--trainer.callbacks.monitor=validation/loss",
        "--trainer.callbacks.patience=50",
        "--trainer.callbacks+=ModelCheckpoint",
        "--trainer.callbacks.monitor=validation/loss",
        "--trainer.callbacks.save_top_k=2",
        "--trainer.callbacks+=EMAWeightAveraging",
        "--trainer.callbacks.decay=0.9",
    ]
    run = start(tmp_path, *words)
    wait_for_checkpoint(tmp_path, run)
    run.kill()
    errors_of(run)
    run = start(tmp_path, *words, "--ckpt_path=last")
    errors = errors_of(run)
    assert run.returncode == 0, errors
    (folder,) = {path.parent for path in tmp_path.rglob("*.ckpt")}
    assert len(list(folder.glob("epoch=*.ckpt"))) == 2
    content = read_checkpoint(folder / "last.ckpt")
    assert content["global_step"] == 60
    assert "current_model_state" in content
