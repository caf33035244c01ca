"""Real processes, signals and files: nothing of a run is lost or half-written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import llm
from llm.checkpoint import read_checkpoint
from llm.errors import CheckpointError
from llm.training import AtomicCheckpointIO, newest_checkpoint

REPOSITORY = Path(__file__).parents[2]
WORDS = [
    "fit",
    "--data.tokenizer.kind=char",
    "--model.gpt.n_layer=1",
    "--model.gpt.n_embd=16",
    "--data.context_length=16",
    "--trainer.accelerator=cpu",
    "--trainer.val_check_interval=20",
    "--inspect.every=0",
    "--samples.every=0",
]


def start(folder: Path, *words: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "train.py"), *WORDS, *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True)


def wait_for_checkpoint(folder: Path, process: subprocess.Popen) -> Path:
    for _ in range(600):
        if found := list(folder.rglob("last.ckpt")):
            return found[0]
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    raise AssertionError("no checkpoint after a minute")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_run_and_says_how_to_go_on(tmp_path, number, status):
    process = start(tmp_path, "--trainer.max_steps=1000000")
    checkpoint = wait_for_checkpoint(tmp_path, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    last = errors.strip().splitlines()[-1]
    assert f"stopped by {number.name} after step" in last
    assert "--ckpt_path" in last
    step = int(last.split("after step ")[1].split(";")[0])
    assert read_checkpoint(checkpoint)["global_step"] == step

    again = start(tmp_path, f"--trainer.max_steps={step + 5}", "--ckpt_path=last")
    _, errors = again.communicate(timeout=60)
    assert again.returncode == 0, errors
    assert read_checkpoint(newest_checkpoint(tmp_path / "runs"))["global_step"] == step + 5


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
