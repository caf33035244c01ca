"""Benchmarks run in the process of the tests: to import torch and Lightning takes longer than most of them."""

import importlib
import logging
import os
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def as_before():
    """What a benchmark that runs in this process changes is as it was afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "llm", "lightning", "lightning.pytorch")]
    said = [(logger.level, logger.propagate, list(logger.handlers)) for logger in loggers]
    threads, environment = torch.get_num_threads(), dict(os.environ)
    yield
    for logger, (level, logger.propagate, logger.handlers) in zip(loggers, said, strict=True):
        logger.setLevel(level)
    torch.set_num_threads(threads)
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    os.environ.update(environment)


@pytest.fixture
def bench(monkeypatch, capsys):
    """Runs `python -m bench.NAME WORDS` in the root folder, and gives what it prints."""

    def run(name: str, *words: str) -> str:
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [f"bench.{name}", *words])
        capsys.readouterr()
        importlib.import_module(f"bench.{name}").main()
        return capsys.readouterr().out

    return run
