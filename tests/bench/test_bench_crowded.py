import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import crowded

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_runs_each_setting():
    words = ["--tiny", "--json", "--settings", "as it comes", "OMP_WAIT_POLICY=PASSIVE OMP_NUM_THREADS=1"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.crowded", *words], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)["rows"]
    assert [(row["program"], row["setting"]) for row in rows] == [
        (program, setting) for program in ("ours", "loop") for setting in words[3:]
    ]
    for row in rows:
        assert row["beside_tokens_per_second"] > 0
        assert row["at_once"] == pytest.approx(row["two_at_once_tokens_per_second"] / row["tokens_per_second"])
    assert [row["of_first"] == 1 for row in rows] == [True, False] * 2


def test_a_setting_is_variables():
    assert crowded.variables("as it comes") == {}
    assert crowded.variables("OMP_NUM_THREADS=2 GOMP_SPINCOUNT=") == {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": ""}
    with pytest.raises(SystemExit, match="NAME=VALUE, or 'as it comes'; got 'passive'"):
        crowded.variables("passive")


def test_a_run_that_fails_is_told_with_its_last_words():
    words = ["--tiny", "--programs", "ours", "--words=--trainer.max_steps=x"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.crowded", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "max_steps" in done.stderr
    assert "Traceback" not in done.stderr
