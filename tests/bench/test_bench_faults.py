"""A few tries of each fault; `python -m bench.faults` makes many."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from bench._processes import REPOSITORY, Moment, Run
from bench.faults import FAULTS, FIT, GO_ON, VARIANTS, prepare, refused, survive


@pytest.mark.parametrize(
    ("variant", "kind", "kills"),
    [
        ("max_steps", "save", 1),
        ("all", "save", 2),
        ("max_epochs", "edge", 2),
        ("accumulation", "random", 1),
        ("masked", "edge", 1),
        ("translate", "save", 1),
        ("rnn", "edge", 1),
        ("word_vectors", "save", 1),
    ],
)
def test_a_run_that_is_killed_and_goes_on_is_the_same_run(tmp_path, variant, kind, kills):
    survive(tmp_path / "run", random.Random(f"{variant} {kind}"), variant, kind, kills)


@pytest.mark.parametrize("name", [name for name in FAULTS if not name.startswith("kill -9")])
def test_every_other_fault(tmp_path, name):
    FAULTS[name].trial(tmp_path / "run", random.Random(1))


def test_a_save_never_goes_through_tmpdir(tmp_path):
    name = "kill -9 inside a save, TMPDIR on another file system"
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    FAULTS[name].trial(tmp_path / "run", random.Random(1))


def test_a_run_killed_before_its_first_checkpoint_begins_afresh_only_if_asked_to(tmp_path):
    prepare(tmp_path)
    words = [*FIT, *VARIANTS["max_steps"]]
    nothing = Run(tmp_path, [*words, "--ckpt_path=last"]).wait()
    refused(nothing, "there is no checkpoint in 'runs/gpt'", "--fresh")
    assert Run(tmp_path, words, Moment("hook", "on_train_batch_start")).wait().status == -9
    refused(Run(tmp_path, [*words, "--ckpt_path=last"]).wait(), "ended before its first checkpoint", "--fresh")
    begun = Run(tmp_path, [*words, *GO_ON]).wait()
    assert begun.status == 0, begun.errors
    assert "starting a new run: the newest run, 'runs/gpt/version_0', ended before" in begun.errors
    assert (tmp_path / "runs/gpt/version_1/checkpoints/last.ckpt").is_file()


@pytest.mark.slow
def test_the_command_prints_a_table():
    command = [sys.executable, "-m", "bench.faults", "corpus", "--tiny"]
    table = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert table.splitlines()[-1].startswith("| corpus changed | 1 | 1 | 0 |")
    content = subprocess.run([*command, "--json"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    (row,) = json.loads(content)["faults"]
    assert (row["fault"], row["tries"], row["lost"]) == ("corpus changed", 1, [])
