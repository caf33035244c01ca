"""Lightning's ModelCheckpoint beside ours keeps what it would keep alone, and neither touches the other's files."""

from __future__ import annotations

from pathlib import Path

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint
from tiny_runs import fit

from llm.errors import ConfigError
from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.ending import EndPoint

OURS = {"best.ckpt", "last.ckpt", "previous.ckpt"}


def steps_by_name(folder: Path) -> dict[str, int]:
    return {path.name: read_checkpoint(path)["global_step"] for path in folder.glob("*.ckpt")}


@pytest.mark.parametrize("interval", [2, 3, 100])
@pytest.mark.parametrize("every", [{"every_n_train_steps": 2}, {"every_n_train_steps": 2, "monitor": "train/loss"}])
def test_files_are_named_for_the_step_that_they_hold(tmp_path, interval, every):
    keeper = ModelCheckpoint(tmp_path / "kept", filename="{step}", save_top_k=-1, **every)
    fit(tmp_path, keeper, EndPoint(), max_steps=6, val_check_interval=interval)
    assert steps_by_name(tmp_path / "kept") == {f"step={step}.ckpt": step for step in (2, 4, 6)}


def test_after_each_validation(tmp_path):
    keeper = ModelCheckpoint(tmp_path / "kept", filename="{step}", save_top_k=-1, monitor="validation/loss")
    fit(tmp_path, keeper, max_steps=6, val_check_interval=2)
    assert steps_by_name(tmp_path / "kept") == {f"step={step}.ckpt": step for step in (2, 4, 6)}


@pytest.mark.parametrize("save_last", [True, "link"])
def test_our_files_are_no_links_and_depend_on_nobody(tmp_path, save_last):
    folder = tmp_path / "checkpoints"
    keeper = ModelCheckpoint(folder, save_last=save_last, save_top_k=1, monitor="validation/loss", mode="max")
    fit(tmp_path, keeper, max_steps=8, val_check_interval=2)
    for name in OURS:
        assert not (folder / name).is_symlink(), name
    for path in folder.glob("*.ckpt"):
        if path.name not in OURS:
            path.unlink()
    found = steps_by_name(folder)
    assert (found["previous.ckpt"], found["last.ckpt"]) == (6, 8)
    assert found.keys() == OURS


def test_its_last_is_beside_ours(tmp_path):
    folder = tmp_path / "checkpoints"
    fit(tmp_path, ModelCheckpoint(folder, save_last="link", every_n_train_steps=3), max_steps=6, val_check_interval=2)
    link = folder / "model-checkpoint-last.ckpt"
    assert link.is_symlink()
    assert read_checkpoint(link)["global_step"] == 6


def test_a_file_of_ours_can_not_be_named(tmp_path):
    with pytest.raises(ConfigError, match="filename 'best' would overwrite"):
        fit(tmp_path, ModelCheckpoint(tmp_path / "checkpoints", filename="best"))
