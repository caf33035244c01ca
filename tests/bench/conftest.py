"""Benchmarks run in the process of the tests: to import torch and Lightning takes longer than most of them."""

import importlib
import logging
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch, capsys):
    """Runs `python -m bench.NAME WORDS` in the root folder, and gives what it prints; what it sets is set back."""
    levels = {name: logging.getLogger(name).level for name in ("", "llm", "lightning", "lightning.pytorch")}
    environment, threads = dict(os.environ), torch.get_num_threads()

    def run(name: str, *words: str) -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [f"bench.{name}", *words])
        capsys.readouterr()
        importlib.import_module(f"bench.{name}").main()
        return capsys.readouterr().out

    yield run
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    torch.set_num_threads(threads)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)
