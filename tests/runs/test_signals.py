"""Signals to real processes: a checkpoint, the status that a shell expects, one line, nothing left behind."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time

import pytest
from processes import WORDS, errors_of, start, wait_for_checkpoint, wait_until

from bench._processes import REPOSITORY, SLURM, members
from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.newest import newest_checkpoint

ENDLESS = "--trainer.max_steps=1000000"


def steps_in(text: str) -> int:
    return int(text.split("after step ")[1].split(";")[0])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves_the_run_and_says_how_to_go_on(tmp_path, name):
    number = signal.Signals[name]
    run = start(tmp_path, ENDLESS)
    checkpoint = wait_for_checkpoint(tmp_path, run)
    began = time.monotonic()
    run.send_signal(number)
    errors = errors_of(run)
    assert time.monotonic() - began < 30
    assert run.returncode == 128 + number, errors
    last = errors.strip().splitlines()[-1]
    assert f"stopped by {name} after step" in last
    assert "--ckpt_path" in last
    assert "Traceback" not in errors
    assert read_checkpoint(checkpoint)["global_step"] == steps_in(last)
    if name == "SIGTERM":
        again = start(tmp_path, f"--trainer.max_steps={steps_in(last) + 5}", "--ckpt_path=last")
        errors = errors_of(again)
        assert again.returncode == 0, errors
        assert read_checkpoint(newest_checkpoint(tmp_path / "runs"))["global_step"] == steps_in(last) + 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("seconds", [0.3, 2.0])
def test_a_signal_before_the_first_step_ends_with_one_line(tmp_path, number, seconds):
    run = start(
        tmp_path,
        "--trainer.limit_val_batches=1.0",
        "--data.batch_size=1",
        "--data.evaluation_batch_size=1",
        "--data.stride=1",
    )
    time.sleep(seconds)
    run.send_signal(number)
    errors = errors_of(run)
    if run.returncode != -number:  # Python itself had not begun
        assert run.returncode == 128 + number, errors
        assert "Traceback" not in errors
        assert errors.strip().splitlines()[-1].startswith(f"stopped by {number.name}")
    assert not list(tmp_path.rglob("*.ckpt")), "there was nothing to save"


def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path):
    one_long_step = ["--trainer.accumulate_grad_batches=1000000", "--data.stride=1", "--data.batch_size=1"]
    run = start(tmp_path, ENDLESS, *one_long_step)
    assert run.stderr is not None
    while "step 0/" not in run.stderr.readline():
        assert run.poll() is None, errors_of(run)
    run.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert run.poll() is None, "it is within a step"
    for _ in range(5):  # on a busy machine the first may have been heard late, so that this one seems to be its echo
        run.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            run.wait(15)
            break
    errors = errors_of(run)
    assert run.returncode == 130, errors
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1].startswith("stopped by SIGINT at once")
    assert not list(tmp_path.rglob("last.ckpt")), "no step was made"
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.slow
def test_a_run_whose_reader_has_left_saves_itself(tmp_path):
    run = start(tmp_path, ENDLESS)
    checkpoint = wait_for_checkpoint(tmp_path, run)
    before = read_checkpoint(checkpoint)["global_step"]
    assert run.stderr is not None
    run.stderr.close()
    assert run.wait(60) == 128 + 13
    assert read_checkpoint(checkpoint)["global_step"] > before


@pytest.mark.parametrize("words", [["fit", "--help"], ["--version-that-is-not-there"]])
def test_help_and_errors_do_not_mind_a_reader_who_left(tmp_path, words):
    variables = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    command = f"({sys.executable} {REPOSITORY / 'train.py'} {' '.join(words)}; echo $? > status) 2>&1 | head -c 1"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=variables, capture_output=True, timeout=120)
    assert len(done.stdout) == 1
    assert (tmp_path / "status").read_text().strip() in ("0", "2", "141")


@pytest.mark.slow
def test_a_terminal_that_closes_saves_the_run(tmp_path):
    child, terminal = pty.fork()
    if child == 0:  # the session leader of a terminal of its own
        os.chdir(tmp_path)
        os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=str(REPOSITORY))
        os.execv(sys.executable, [sys.executable, str(REPOSITORY / "train.py"), *WORDS, ENDLESS])
    os.set_blocking(terminal, False)
    deadline = time.monotonic() + 120
    while not (found := list(tmp_path.rglob("last.ckpt"))) and time.monotonic() < deadline:
        try:
            os.read(terminal, 1 << 16)
        except BlockingIOError:
            time.sleep(0.05)
    os.close(terminal)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    assert read_checkpoint(found[0])["global_step"] > 20


@pytest.mark.parametrize("status", [0, 1])
def test_slurms_warning_saves_the_run_and_puts_the_job_in_the_queue_again(tmp_path, status):
    (tmp_path / "bin").mkdir()
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.write_text(f"#!/bin/sh\necho \"$@\" >> '{tmp_path}/asked'\necho no >&2\nexit {status}\n")
    scontrol.chmod(0o755)
    run = start(tmp_path, ENDLESS, **SLURM, PATH=f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    checkpoint = wait_for_checkpoint(tmp_path, run)
    run.send_signal(signal.SIGUSR1)
    errors = errors_of(run)
    assert run.returncode == 128 + signal.SIGUSR1, errors
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert ("job 4711 is in the queue again" in errors) == (status == 0)
    assert ("`scontrol requeue 4711` failed: no" in errors) == (status == 1)
    assert read_checkpoint(checkpoint)["global_step"] == steps_in(errors)
    assert not list(tmp_path.rglob("hpc_ckpt*")), "Lightning would save within a step"


def test_a_loader_that_is_killed_is_named_and_nothing_stays_behind(tmp_path):
    run = start(tmp_path, ENDLESS, "--data.num_workers=2")
    wait_for_checkpoint(tmp_path, run)
    workers = [process for process in members(tmp_path) if process != run.pid]
    assert len(workers) >= 2
    os.kill(workers[0], signal.SIGKILL)
    errors = errors_of(run)
    assert run.returncode == 1, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"error: the process {workers[0]}, which loads data, has ended (killed)")
    assert "Traceback" not in errors
    wait_until(lambda: not members(tmp_path), None, 15)


def test_a_signal_to_all_processes_of_a_run_with_loaders_saves_it(tmp_path):
    run = start(tmp_path, ENDLESS, "--data.num_workers=1", "--trainer.accumulate_grad_batches=3")
    checkpoint = wait_for_checkpoint(tmp_path, run)
    os.killpg(run.pid, signal.SIGTERM)  # as SLURM does
    errors = errors_of(run)
    assert run.returncode == 143, errors
    assert "Traceback" not in errors
    assert read_checkpoint(checkpoint)["global_step"] == steps_in(errors)
    wait_until(lambda: not members(tmp_path), None, 15)
