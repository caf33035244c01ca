import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench._nanogpt import NanoGPT
from llm import GPT

ROOT = Path(__file__).parents[2]


def run(folder, *words):
    command = [sys.executable, "-m", "bench.gpu", "--tiny", "--device", "cpu", "--output", str(folder), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done, json.loads((folder / "gpu.json").read_text())


@pytest.mark.slow
def test_a_part_that_fails_stops_no_other(tmp_path):
    done, found = run(tmp_path, "--parts", "modern", "step", "tf32", "--corpus", str(tmp_path / "missing.txt"))
    assert done.returncode == 1
    assert found["device"] == "cpu"
    parts = found["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "modern": "failed",
        "step": "done",
        "tf32": "done",
    }
    assert "missing.txt" in parts["modern"]["error"][-1]
    assert parts["tf32"]["results"]["as it comes"] == "highest"

    step = parts["step"]["results"]
    ways = {"plain compiled", "plain compiled, padded", "ours", "ours compiled", "ours compiled, padded"}
    assert {*ways, "trainer compiled", "ratios"} == {name for name in step if not name.startswith("head: ")}
    for way in (*ways, "trainer compiled"):
        row = step[way]
        assert row["tokens_per_second"] == pytest.approx(row["batch"] * 32 / row["ms"] * 1e3)
    rates = step["ratios"]["to plain compiled"]
    assert rates["ours"] == pytest.approx(
        step["ours"]["tokens_per_second"] / step["plain compiled"]["tokens_per_second"]
    )
    for way in ("plain compiled", "ours compiled", "trainer compiled"):
        profile = step[way]["profile"]
        assert profile["busy_ms"] + profile["idle_ms"] == pytest.approx(profile["span_ms"])
        times = [kernel["ms"] for kernel in profile["kernels"]]
        assert times == sorted(times, reverse=True)
        assert 0 < sum(times) <= profile["busy_ms"] * 1.01
    heads = {"ours", "ours compiled", "torch compiled"}
    assert {f"head: {way}{padded}" for way in heads for padded in ("", ", padded")} <= set(step)


def test_what_does_not_fit_into_the_time_is_left_out(tmp_path):
    done, found = run(tmp_path, "--seconds", "1", "--parts", "step", "tests")
    assert done.returncode == 0
    assert {name: part["status"] for name, part in found["parts"].items()} == {"step": "skipped", "tests": "skipped"}


def test_without_a_gpu_that_was_asked_for_nothing_is_measured(tmp_path):
    command = [sys.executable, "-m", "bench.gpu", "--tiny", "--output", str(tmp_path), "--parts", "tf32"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: --device cuda: torch finds no CUDA device"]


def test_the_rival_has_as_many_parameters_as_ours(tiny):
    theirs = NanoGPT(tiny.vocab_size, tiny.context_length, tiny.n_layer, tiny.n_head, tiny.n_embd)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == GPT(tiny).n_parameters
    torch.manual_seed(0)
    ids, targets = torch.randint(tiny.vocab_size, (2, 64, tiny.context_length))
    assert theirs(ids, targets).item() == pytest.approx(math.log(tiny.vocab_size), abs=0.05)
