"""A NaN loss in one of two processes: both act alike."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llm.pretrained.checkpoint import read_checkpoint

REPOSITORY = Path(__file__).parents[2]
POISON = """
import hashlib
import lightning as L
from pathlib import Path

class Poison(L.Callback):
    def setup(self, trainer, pl_module, stage):
        def spoil(module, args, output):
            here = trainer.global_rank == 1 and trainer.fit_loop.total_batch_idx in (2, 4) and pl_module.training
            return output * float("nan") if here else output
        pl_module.gpt.embeddings.register_forward_hook(spoil)

    def on_train_end(self, trainer, pl_module):
        weights = b"".join(p.detach().numpy().tobytes() for p in pl_module.parameters())
        Path(f"weights-{trainer.global_rank}").write_text(hashlib.sha256(weights).hexdigest())
"""
WORDS = [
    *("fit", "--allow_classes=poison", "--trainer.callbacks=poison.Poison", "--data.tokenizer.kind=char"),
    *("--model.gpt.n_layer=1", "--model.gpt.n_embd=16", "--data.context_length=16", "--inspect.every=0"),
    *("--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_steps=7"),
    *("--trainer.val_check_interval=1", "--trainer.limit_val_batches=1", "--samples.every=0"),
]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    (folder / "poison.py").write_text(POISON)
    path = os.pathsep.join([str(REPOSITORY), str(folder)])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(REPOSITORY / "train.py"), *WORDS, *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_all_processes_stop_and_the_one_at_fault_is_named(tmp_path):
    ended = run(tmp_path)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert "step 2: the loss is nan, in batch 2 of epoch 0, process 1 (windows" in ended.stderr
    (kept,) = tmp_path.rglob("non_finite/*.json")
    assert json.loads(kept.read_text())["process"] == 1
    (last,) = tmp_path.rglob("last.ckpt")
    saved = read_checkpoint(last)
    assert saved["global_step"] == 2
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


@pytest.mark.slow
def test_all_processes_leave_the_step_out_and_stay_equal(tmp_path):
    ended = run(tmp_path, "--model.non_finite=skip")
    assert ended.returncode == 0, ended.stderr
    assert "Skipped; so far 2" in ended.stderr
    weights = [(tmp_path / f"weights-{rank}").read_text() for rank in (0, 1)]
    assert weights[0] == weights[1]
    (last,) = tmp_path.rglob("last.ckpt")
    assert read_checkpoint(last)["llm"]["skipped_steps"] == [2, 0]
