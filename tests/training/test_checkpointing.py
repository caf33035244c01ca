"""Real processes, signals and files: nothing of a run is lost or half-written."""

from __future__ import annotations

import os

import pytest
import torch
from processes import start, wait_for_checkpoint

import llm
from llm.checkpoint import read_checkpoint
from llm.errors import CheckpointError
from llm.training import AtomicCheckpointIO, newest_checkpoint


def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    process = start(tmp_path, "--trainer.max_steps=1000000", "--checkpoint.every=1")
    checkpoint = wait_for_checkpoint(tmp_path, process)
    for _ in range(20):  # read it while it is being replaced
        assert read_checkpoint(checkpoint)["global_step"] > 0
    process.kill()
    process.communicate(timeout=60)
    model, tokenizer = llm.load(checkpoint)
    assert model.config.vocab_size == tokenizer.vocab_size


def test_a_failed_write_keeps_the_old_file(tmp_path):
    target = tmp_path / "x.ckpt"
    writer = AtomicCheckpointIO()
    writer.save_checkpoint({"llm": {"version": 1}, "state_dict": {}}, target)
    before = target.read_bytes()

    class Unwritable:
        def __reduce__(self):
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left"):
        writer.save_checkpoint({"x": Unwritable()}, target)
    assert target.read_bytes() == before
    assert list(tmp_path.iterdir()) == [target]


def test_the_newest_readable_checkpoint_is_chosen(tmp_path):
    writer = AtomicCheckpointIO()
    for index, name in enumerate(("old", "new", "broken")):
        path = tmp_path / name / "last.ckpt"
        writer.save_checkpoint({"llm": {"version": 1}, "state_dict": {}}, path)
        os.utime(path, (index, index))
    (tmp_path / "broken" / "last.ckpt").write_bytes(b"PK\x03\x04 cut short")
    os.utime(tmp_path / "broken" / "last.ckpt", (9, 9))
    for folder in ("link", "pipe"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link" / "last.ckpt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe" / "last.ckpt")
    assert newest_checkpoint(tmp_path) == tmp_path / "new" / "last.ckpt"
    with pytest.raises(CheckpointError, match="no readable last"):
        newest_checkpoint(tmp_path / "broken")


def test_a_checkpoint_holds_tensors_and_plain_values_only(tmp_path):
    class Payload:
        def __reduce__(self):
            return print, ("code ran",)

    path = tmp_path / "evil.ckpt"
    torch.save({"llm": {"version": 1}, "state_dict": {}, "x": Payload()}, path)
    with pytest.raises(CheckpointError, match="is not opened"):
        read_checkpoint(path)
