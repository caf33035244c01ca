"""Two real processes train one model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[2]
WORDS = [
    "fit",
    "--data.tokenizer.kind=char",
    "--model.gpt.n_layer=1",
    "--model.gpt.n_embd=16",
    "--data.context_length=16",
    "--trainer.accelerator=cpu",
    "--trainer.devices=2",
    "--trainer.strategy=ddp",
    "--trainer.val_check_interval=3",
]


def start(folder: Path, *words: str) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "train.py"), *WORDS, *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def errors_of(process: subprocess.Popen, seconds: float) -> str:
    """What a run and the processes that it started said; if it does not end in time, they all are ended."""
    try:
        return process.communicate(timeout=seconds)[1]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"it did not end:\n{process.communicate()[1]}") from None


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    run = start(tmp_path, "--trainer.max_steps=6", "--inspect.every=3")
    errors = errors_of(run, 300)
    assert run.returncode == 0, errors
    assert len(list(tmp_path.rglob("version_*"))) == 1, "one run, one folder"
    assert errors.count("checkpoint: ") == 1, "what is said is said once"
    (last,) = tmp_path.rglob("last.ckpt")
    content = read_checkpoint(last)
    assert content["global_step"] == 6
    assert content["TextDataModule"]["world_size"] == 2


@pytest.mark.slow
def test_a_signal_to_one_process_saves_and_ends_all(tmp_path):
    run = start(tmp_path, "--trainer.max_steps=1000000", "--inspect.every=0", "--samples.every=0")
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("last.ckpt")) and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)  # to the first process alone
    errors = errors_of(run, 60)
    assert run.returncode == 128 + signal.SIGTERM, errors
    step = int(errors.split("stopped by SIGTERM after step ")[1].split(";")[0])
    (last,) = tmp_path.rglob("last.ckpt")
    assert read_checkpoint(last)["global_step"] == step
