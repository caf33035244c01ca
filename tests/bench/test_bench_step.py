import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bench import step

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_benchmark_of_the_step_runs():
    """With `LITGPT_PYTHON` in the environment, litgpt's rows too; the others' where they are installed."""
    command = [sys.executable, "-m", "bench.step", "--tiny", "--threads", "1", "--device", "cpu", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["sizes"]["tiny"]
    ways = ["loop", "module loop", "trainer", "trainer float32"]
    if find_spec("transformers") and find_spec("accelerate"):
        ways += ["transformers", "transformers bf16"]
    if "LITGPT_PYTHON" in os.environ:
        ways += ["litgpt", "litgpt bf16"]
    if find_spec("llms_from_scratch"):
        ways += ["book"]
    assert [row["way"] for row in rows] == ways
    assert all(row["ms"] > 0 and row["cpu_ms"] > 0 and row["peak_mb"] > 100 for row in rows)
    assert all(row["tokens_per_second"] == pytest.approx(16 / row["ms"] * 1e3) for row in rows)
    assert all(row["mfu"] is None for row in rows)
    assert rows[0]["to_loop"] == 1


def test_utilization_is_operations_by_the_peak(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100 80GB HBM3")
    found = step.utilization("trainer compiled", step.SIZES["124m"], 500_000, "cuda")
    assert found == pytest.approx(500_000 * 855_166_464 / 989e12)
    assert step.utilization("trainer float32", step.SIZES["124m"], 500_000, "cuda") is None
    assert step.utilization("trainer", step.SIZES["124m"], 500_000, "cpu") is None


def test_a_way_that_ends_is_told_with_its_last_words():
    command = [sys.executable, "-m", "bench.step", "--tiny", "--ways", "litgpt", "--litgpt_python", "/usr/bin/false"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "--way litgpt" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_benchmarks_are_listed():
    done = subprocess.run([sys.executable, "-m", "bench"], cwd=ROOT, capture_output=True, text=True, check=True)
    listed = [line.split()[2] for line in done.stdout.splitlines()]
    files = [path.stem for path in (ROOT / "bench").glob("[!_]*.py")]
    assert sorted(listed) == sorted(f"bench.{name}" for name in files)
