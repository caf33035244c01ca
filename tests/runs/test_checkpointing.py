"""Real processes, signals and files: nothing of a run is lost or half-written."""

from __future__ import annotations

import pytest
import torch
from processes import start, wait_for_checkpoint

import llm
from llm.errors import CheckpointError
from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.checkpointing import AtomicCheckpointIO


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


def test_a_checkpoint_holds_tensors_and_plain_values_only(tmp_path):
    class Payload:
        def __reduce__(self):
            return print, ("code ran",)

    path = tmp_path / "evil.ckpt"
    torch.save({"llm": {"version": 1}, "state_dict": {}, "x": Payload()}, path)
    with pytest.raises(CheckpointError, match="is not opened"):
        read_checkpoint(path)
