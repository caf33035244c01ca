"""A run that gets a signal saves itself, and goes on as if it had not."""

from __future__ import annotations

import signal

import pytest
from processes import start, wait_for_checkpoint

from llm.checkpoint import read_checkpoint
from llm.training import newest_checkpoint


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
