"""Two real processes train one model."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    words = [
        "fit",
        "--data.tokenizer.kind=char",
        "--model.gpt.n_layer=1",
        "--model.gpt.n_embd=16",
        "--data.context_length=16",
        "--trainer.accelerator=cpu",
        "--trainer.devices=2",
        "--trainer.strategy=ddp",
        "--trainer.max_steps=6",
        "--trainer.val_check_interval=3",
        "--inspect.every=3",
    ]
    run = subprocess.run(
        [sys.executable, str(REPOSITORY / "train.py"), *words],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert len(list(tmp_path.rglob("version_*"))) == 1, "one run, one folder"
    assert run.stderr.count("checkpoint: ") == 1, "what is said is said once"
    (last,) = tmp_path.rglob("last.ckpt")
    content = read_checkpoint(last)
    assert content["global_step"] == 6
    assert content["TextDataModule"]["world_size"] == 2
