"""Two real processes train one model."""

from __future__ import annotations

import signal

import pytest
from processes import errors_of, start, wait_for_checkpoint

from llm.checkpoint import read_checkpoint

WORDS = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.val_check_interval=3"]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    run = start(tmp_path, *WORDS, "--trainer.max_steps=6", "--inspect.every=3", "--samples.every=3")
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
    run = start(tmp_path, *WORDS, "--trainer.max_steps=1000000")
    wait_for_checkpoint(tmp_path, run)
    run.send_signal(signal.SIGTERM)  # to the first process alone
    errors = errors_of(run, 60)
    assert run.returncode == 128 + signal.SIGTERM, errors
    step = int(errors.split("stopped by SIGTERM after step ")[1].split(";")[0])
    (last,) = tmp_path.rglob("last.ckpt")
    assert read_checkpoint(last)["global_step"] == step
