"""A step that is judged later is the step that is judged at once."""

from __future__ import annotations

import json

import lightning as L
import pytest
import torch
from test_non_finite import STEPS, Poison, prepare
from torch.optim import AdamW

from llm.errors import TrainingError
from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.checkpointing import BestAndLast
from llm.training import gradient
from llm.training.judging import may_be_judged_later


@pytest.fixture
def judged_later(monkeypatch):
    """On the CPU, too, whose fused kernel knows the flag as well; gives the steps that were put off."""
    found = []

    def put_off(is_counted, optimizer, gradients, factor, take_if=gradient.take_if):
        found.append(optimizer)
        take_if(is_counted, optimizer, gradients, factor)

    monkeypatch.setattr(gradient, "take_if", put_off)
    monkeypatch.setattr(
        gradient, "may_be_judged_later", lambda optimizer, device: may_be_judged_later(optimizer, torch.device("cuda"))
    )
    return found


def run(folder, action="skip", poisoned=(), where="gradient", **options):
    """The module after a run, its error if it had one, and the last checkpoint."""
    folder.mkdir()
    options = {"log_every_n_steps": 4, "checkpoint": BestAndLast(every=100), **options}
    trainer, module, datamodule = prepare(folder, action, callbacks=[Poison(poisoned, where)], **options)
    error = ""
    try:
        trainer.fit(module, datamodule)
    except TrainingError as raised:
        error = str(raised)
    return module, error, trainer


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize(
    ("where", "options"),
    [
        ("loss", {}),
        ("gradient", {"gradient_clip_val": 0.01}),
        ("gradient", {"gradient_clip_val": 0.001, "gradient_clip_algorithm": "value"}),
        ("gradient", {"accumulate_grad_batches": 2, "val_check_interval": 2}),
        ("loss", {"precision": "bf16-true"}),
    ],
    ids=str,
)
def test_the_weights_are_the_same_bit_for_bit_with_steps_left_out(tmp_path, request, where, options):
    at_once, _, _ = run(tmp_path / "at_once", poisoned=[2, 5, 9, 10], where=where, **options)
    put_off = request.getfixturevalue("judged_later")
    later, _, _ = run(tmp_path / "later", poisoned=[2, 5, 9, 10], where=where, **options)
    assert len(put_off) >= 4
    assert later.gradient.guard.skipped == at_once.gradient.guard.skipped > 0
    for name, value in weights(at_once).items():
        assert torch.equal(later.state_dict()[name], value), name
    files = sorted(path.name for path in (tmp_path / "at_once").rglob("non_finite/*"))
    for name in files:
        mine, theirs = (json.loads(next((tmp_path / way).rglob(name)).read_text()) for way in ("later", "at_once"))
        assert mine == theirs


@pytest.mark.parametrize("step", [4, 5, 8])
def test_a_run_stops_with_the_weights_from_before_the_step(tmp_path, request, step):
    """At the next step, the validation after every third step, or the end of the run."""
    at_once, its_error, _ = run(tmp_path / "at_once", "stop", [step])
    request.getfixturevalue("judged_later")
    later, error, trainer = run(tmp_path / "later", "stop", [step])
    assert f"step {step}: the gradient norm is nan, in batch" in error
    assert error == its_error.replace("at_once", "later")
    assert trainer.global_step == step + 1
    for name, value in weights(at_once).items():
        assert torch.equal(later.state_dict()[name], value), name


def test_no_checkpoint_is_written_of_a_step_that_was_not_judged(tmp_path, judged_later):
    _, error, _ = run(tmp_path / "run", "stop", [5], checkpoint=BestAndLast(every=1))
    assert "step 5" in error
    assert read_checkpoint(next((tmp_path / "run").rglob("last.ckpt")))["global_step"] == 5
    assert judged_later


def test_only_what_can_leave_a_step_out_by_itself_is_judged_later():
    parameters = [torch.nn.Parameter(torch.zeros(2))]
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert may_be_judged_later(AdamW(parameters, fused=True), gpu)
    assert not may_be_judged_later(AdamW(parameters, fused=True), cpu)
    assert not may_be_judged_later(AdamW(parameters), gpu)
    assert not may_be_judged_later(torch.optim.SGD(parameters), gpu)


@pytest.mark.gpu
def test_on_a_gpu_a_step_that_is_not_logged_waits_for_nothing(tmp_path):
    class Forbid(L.Callback):
        """Any wait for a value, in steps 3 to 6."""

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            torch.cuda.set_sync_debug_mode("error" if 3 <= trainer.global_step < 6 else "default")

    trainer, module, datamodule = prepare(
        tmp_path,
        "stop",
        callbacks=[Forbid()],
        checkpoint=BestAndLast(every=100),
        accelerator="cuda",
        log_every_n_steps=100,
        val_check_interval=100,
        limit_val_batches=0,
    )
    try:
        trainer.fit(module, datamodule)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert trainer.global_step == STEPS
