"""What may end a process from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llm.errors import reason_of
from llm.runtime.process import Output, listen, listen_as_before, rank


@pytest.mark.parametrize(
    ("variables", "expected"),
    [({}, 0), ({"LOCAL_RANK": "1"}, 1), ({"RANK": "9", "LOCAL_RANK": "1"}, 9), ({"SLURM_PROCID": "3"}, 3)],
)
def test_the_rank_is_what_the_starter_says(monkeypatch, variables, expected):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert rank() == expected


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        handlers = listen(lambda *_: None)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        listen_as_before(handlers)
        assert signal.getsignal(signal.SIGTERM) is handlers[signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_whose_reader_has_left_asks_to_end_once_and_is_silent():
    received: list[int] = []
    handlers = listen(lambda number, frame: received.append(number))
    try:
        reading, writing = os.pipe()
        with os.fdopen(writing, "w") as stream:
            output = Output(stream)
            assert output.write("before\n") == 7
            output.flush()
            assert os.read(reading, 100) == b"before\n"
            os.close(reading)
            for _ in range(3):
                output.write("after\n")
                output.flush()
        assert received == [13]
    finally:
        listen_as_before(handlers)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "DataLoader worker (pid 4711) is killed by signal: Killed. ",
            "the process 4711, which loads data, has ended (k",
        ),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "the process 12, 13, which loads data, has ended"),
        ("[/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]:1", "another process of this run has ended"),
        ("mat1 and mat2 shapes cannot be multiplied", None),
    ],
)
def test_a_lost_process_is_told_in_a_line(message, expected):
    reason = reason_of(RuntimeError(message))
    assert reason is None if expected is None else reason.startswith(expected)


def test_a_lost_loader_is_found_behind_the_error_that_was_made_of_it():
    made_of_it = TypeError("unsupported callable")
    made_of_it.__cause__ = RuntimeError("DataLoader worker (pid 4711) is killed by signal: Killed. ")
    assert "the process 4711" in (reason_of(made_of_it) or "")


@pytest.mark.parametrize(("error", "is_said"), [("ConnectionResetError(104, 'reset')", False), ("ValueError(7)", True)])
def test_a_loader_does_not_complain_that_nobody_listens_any_more(error, is_said):
    code = f"""
import sys
from llm.runtime.process import shield_worker
shield_worker(0)
try:
    raise {error}
except Exception:
    sys.excepthook(*sys.exc_info())  # as multiprocessing's resource sharer does in its thread
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ("Traceback" in found.stderr) is is_said
