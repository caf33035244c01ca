"""Two real processes train one model, end together, and go on as if they had not."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from processes import WORDS, errors_of, start, start_command, wait_for_checkpoint, wait_until
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import llm
from bench._processes import REPOSITORY, members
from llm.__main__ import main as commands
from llm.cli.main import main
from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.newest import newest_checkpoint
from llm.runs.processes import without_looks
from llm.runtime.process import usable_cores
from llm.tasks import TASKS

needs_two_cores = pytest.mark.skipif(usable_cores() < 2, reason="one core can't run two processes")
TWO = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.val_check_interval=3"]
LLAMA = [f"--model.gpt.{option}" for option in (
    "n_layer=2", "n_head=4", "n_kv_head=2", "head_size=6", "positions=rotary", "rope_theta=500",
    "rope_scaling.kind=yarn", "rope_scaling.factor=2", "rope_scaling.original_context=8", "norm=rms_norm", "mlp=gated",
    "activation=silu", "qk_norm=true", "qk_gain=separate", "bias=false", "qkv_bias=true", "sliding_window=4",
    "full_attention_layers=[1]", "tie_head=false", "scale_embeddings=true", "sandwich_norm=true", "logit_softcap=30",
    "dropout=0",
)]  # fmt: skip
"""What GPT-2's architecture has not."""
ON_PROCESSORS = REPOSITORY / "tests" / "fsdp_on_processors.py"
FSDP_HERE = ["--trainer.strategy=fsdp_on_processors", "--trainer.precision=32-true"]
ENDLESS = "--trainer.max_steps=1000000"


def run_to_its_end(folder: Path, *words: str, script: Path = REPOSITORY / "train.py") -> dict[str, torch.Tensor]:
    """The weights that a run ends with."""
    run = start_command(folder, [sys.executable, str(script), *WORDS, *words])
    errors = errors_of(run, 300)
    assert run.returncode == 0, errors
    return read_checkpoint(newest_checkpoint(folder / "runs"))["state_dict"]


def curve(folder: Path, name: str) -> dict[int, float]:
    (run,) = {path.parent for path in folder.rglob("events.out.tfevents*")}
    events = EventAccumulator(str(run)).Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def steps_in(text: str) -> int:
    return int(text.split("after step ")[1].split(";")[0])


@pytest.mark.slow
@needs_two_cores
def test_two_processes_train_as_one_does_with_twice_the_batch(tmp_path):
    (tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    words = [
        "--trainer.max_steps=6",
        "--model.gpt.dropout=0",
        "--trainer.log_every_n_steps=1",
        "--trainer.precision=32-true",
    ]
    run = start(tmp_path / "two", *TWO, *words, "--data.batch_size=4", "--inspect.every=3", "--samples.every=3")
    errors = errors_of(run, 300)
    assert run.returncode == 0, errors
    assert len(list((tmp_path / "two").rglob("version_*"))) == 1, "one run, one folder"
    assert errors.count("checkpoint: ") == 1, "what is said is said once"
    two = read_checkpoint(newest_checkpoint(tmp_path / "two"))
    assert two["global_step"] == 6
    assert two["TextDataModule"]["world_size"] == 2
    one = run_to_its_end(tmp_path / "one", *words, "--trainer.val_check_interval=3", "--data.batch_size=8")
    for name in ("train/loss", "validation/loss"):
        ours, theirs = curve(tmp_path / "two", name), curve(tmp_path / "one", name)
        assert ours == pytest.approx(theirs, abs=1e-5)
    for name, value in one.items():
        torch.testing.assert_close(two["state_dict"][name], value, rtol=0, atol=1e-5)


@pytest.mark.slow
@needs_two_cores
def test_two_processes_train_a_llama_with_muon_as_one_does(tmp_path, monkeypatch):
    words = [*LLAMA, "--model.optim.kind=muon", "--model.optim.warmup_steps=0", "--trainer.precision=32-true"]
    words += ["--trainer.max_steps=3", "--trainer.limit_val_batches=1"]
    (tmp_path / "two").mkdir()
    two = run_to_its_end(tmp_path / "two", *TWO, *words, "--data.batch_size=4")
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, *words, "--data.batch_size=8"]) == 0
    one = read_checkpoint(newest_checkpoint(tmp_path / "runs"))["state_dict"]
    assert two.keys() == one.keys() >= {"network.blocks.1.mlp.gate.weight", "network.blocks.0.attention.qkv.bias"}
    for name, value in one.items():
        is_of_muon = "blocks" in name and value.ndim == 2  # which computes in bfloat16
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-3 if is_of_muon else 1e-5)


@pytest.mark.slow
@needs_two_cores
def test_two_processes_train_adapters_of_a_llama_as_one_does_and_they_are_merged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [*LLAMA, "--trainer.precision=32-true", "--trainer.limit_val_batches=1", "--trainer.log_every_n_steps=1"]
    assert main([*WORDS, *words, "--trainer.max_steps=1", "--checkpoint.folder=base"]) == 0
    words += [f"--model.pretrained={tmp_path / 'base/last.ckpt'}", "--trainer.max_steps=3"]
    words += ["--model.optim.learning_rate=0.02", "--model.optim.warmup_steps=0", "--model.lora.rank=2"]
    words += ["--model.lora.adapter_only=true", "--model.lora.token_rows=2", "--model.lora.base_precision=bfloat16"]
    for name in ("two", "one"):
        (tmp_path / name).mkdir()
    two = run_to_its_end(tmp_path / "two", *TWO, *words, "--data.batch_size=4")
    monkeypatch.chdir(tmp_path / "one")
    assert main([*WORDS, *words, "--data.batch_size=8"]) == 0
    one = read_checkpoint(newest_checkpoint("runs"))["state_dict"]
    assert two.keys() == one.keys()
    assert {name.rpartition(".")[2] for name in two} == {"lora_a", "lora_b", "token_rows"}
    for name, value in one.items():
        assert value.abs().max() > 1e-3
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)  # Adam divides by small gradients
    ours, theirs = (curve(tmp_path / name, "train/loss") for name in ("two", "one"))
    assert ours == pytest.approx(theirs, abs=1e-5)
    merged = [tmp_path / name / "merged.ckpt" for name in ("two", "one")]
    for path in merged:
        assert commands(["merge", "--ckpt", str(newest_checkpoint(path.parent / "runs")), "--out", str(path)]) == 0
    ids = torch.arange(16)[None]
    logits, expected = (llm.load(path).model(ids) for path in merged)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert not torch.allclose(logits, llm.load("../base/last.ckpt").model(ids), atol=1e-2)


@pytest.mark.slow
@needs_two_cores
@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGTERM), (1, signal.SIGTERM), (None, signal.SIGINT)])
def test_a_signal_to_either_process_or_both_saves_and_ends_both(tmp_path, rank, number):
    run = start(tmp_path, *TWO, ENDLESS)
    last = wait_for_checkpoint(tmp_path, run)
    if rank is None:
        os.killpg(run.pid, number)  # Ctrl+C in a terminal
    else:
        os.kill(members(tmp_path)[rank], number)
    errors = errors_of(run, 60)
    assert run.returncode == 128 + number, errors
    assert errors.count(f"stopped by {number.name}") == 1, errors
    assert "Traceback" not in errors
    assert read_checkpoint(last)["global_step"] == steps_in(errors)
    wait_until(lambda: not members(tmp_path), None, 10)


@pytest.mark.slow
@needs_two_cores
def test_a_kill_of_either_process_ends_both_and_the_run_goes_on_as_if_it_had_not(tmp_path, monkeypatch, capsys):
    """But with another number of processes it is refused, with both numbers."""
    words = [*TWO, "--trainer.max_steps=300", "--checkpoint.every=10"]
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    whole = run_to_its_end(tmp_path / "whole", *words)
    folder = tmp_path / "killed"
    resume: list[str] = []
    for rank in (0, 1):
        run = start(folder, *words, *resume)
        last = wait_for_checkpoint(folder, run)
        before = last.stat().st_mtime_ns
        wait_until(lambda last=last, before=before: last.stat().st_mtime_ns > before, run)
        began = time.monotonic()
        os.kill(members(folder)[rank], signal.SIGKILL)
        errors = errors_of(run, 60)
        wait_until(lambda: not members(folder), None, 60 - (time.monotonic() - began))
        assert run.returncode != 0
        assert "Traceback" not in errors
        if rank == 1:
            assert errors.strip().splitlines()[-1].startswith("error: ")
        resume = ["--ckpt_path=last"]
    resumed = run_to_its_end(folder, *words, *resume)
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    monkeypatch.chdir(folder)
    assert main([*WORDS, "--trainer.max_steps=600", "--ckpt_path=last"]) == 1
    assert "world_size (2 in the checkpoint, 1 now)" in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.slow
@needs_two_cores
def test_torchrun_starts_as_many_as_it_says_and_a_signal_or_a_kill_ends_all(tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [*torchrun, str(REPOSITORY / "train.py"), *WORDS, ENDLESS]
    run = start_command(tmp_path, command)
    last = wait_for_checkpoint(tmp_path, run)
    run.send_signal(signal.SIGTERM)
    errors = errors_of(run, 60)
    assert errors.count("stopped by SIGTERM") == 1, errors
    assert read_checkpoint(last)["global_step"] == steps_in(errors)
    assert read_checkpoint(last)["TextDataModule"]["world_size"] == 2
    assert len(list(tmp_path.rglob("version_*"))) == 1, "one run, one folder"
    wait_until(lambda: not members(tmp_path), None, 60)

    saved = last.stat().st_mtime_ns
    run = start_command(tmp_path, [*command, "--ckpt_path=last"])
    wait_until(lambda: newest_checkpoint(tmp_path / "runs").stat().st_mtime_ns > saved, run)
    os.kill(members(tmp_path)[-1], signal.SIGKILL)
    errors_of(run, 60)
    assert run.returncode != 0
    wait_until(lambda: not members(tmp_path), None, 60)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--trainer.devices=999", "--trainer.strategy=ddp"], "999 processes, and this machine has"),
        (["--trainer.strategy=fsdp"], "FSDP"),
    ],
)
def test_what_this_machine_can_not_do_is_refused_in_a_line(tmp_path, monkeypatch, capsys, words, reason):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, *words]) == 1
    assert reason in capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("task", [task for task in TASKS if TASKS[task].callbacks])
def test_no_callback_of_a_task_looks_where_weights_are_sharded(task, caplog):
    others = [L.Callback()]
    looks = [kind() for kind in TASKS[task].callback_classes().values()]
    assert without_looks([*looks, *others], "auto", TASKS[task].callback_classes().values()) == [*looks, *others]
    with caplog.at_level("INFO", logger="llm"):
        assert without_looks([*looks, *others], "fsdp", TASKS[task].callback_classes().values()) == others
    assert "no inspection and no samples" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("accelerator", "architecture"),
    [
        pytest.param("cpu", [*LLAMA, "--model.gpt.qk_gain=shared"], marks=needs_two_cores, id="cpu-llama"),
        pytest.param("cuda", [], marks=pytest.mark.gpu, id="cuda-gpt2"),
        pytest.param("cuda", LLAMA, marks=pytest.mark.gpu, id="cuda-llama"),
    ],
)
def test_fsdp_trains_as_one_device_does_and_goes_on(tmp_path, accelerator, architecture):
    devices = 2 if accelerator == "cpu" else torch.cuda.device_count()
    words = [
        *architecture,
        f"--trainer.accelerator={accelerator}",
        "--trainer.precision=32-true",
        "--trainer.gradient_clip_val=0.5",
        "--trainer.val_check_interval=3",
        "--model.gpt.dropout=0",
        "--model.optim.final_learning_rate_ratio=1.0",
    ]
    script, how = REPOSITORY / "train.py", ["--trainer.strategy=fsdp"]
    if accelerator == "cpu":
        script, how = ON_PROCESSORS, FSDP_HERE
    sharded = [*words, *how, f"--trainer.devices={devices}", "--data.batch_size=4"]
    for name in ("one", "sharded"):
        (tmp_path / name).mkdir()
    one = [*words, "--trainer.devices=1", f"--data.batch_size={4 * devices}"]
    expected = run_to_its_end(tmp_path / "one", *one, "--trainer.max_steps=6")
    run_to_its_end(tmp_path / "sharded", *sharded, "--trainer.max_steps=3", script=script)
    found = run_to_its_end(tmp_path / "sharded", *sharded, "--trainer.max_steps=6", "--ckpt_path=last", script=script)
    assert len(expected) == len(found)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=1e-4 if accelerator == "cuda" else 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model.optim.kind=muon"], "needs whole matrices"),
        (["--model.lora.rank=1", "--model.lora.adapter_only=true"], "leaves out the frozen weights"),
    ],
    ids=["muon", "adapters alone"],
)
def test_fsdp_refuses_in_a_line(tmp_path, words, said):
    run = start_command(tmp_path, [sys.executable, str(ON_PROCESSORS), *WORDS, *FSDP_HERE, *words])
    errors = errors_of(run)
    assert run.returncode == 1
    assert said in errors.strip().splitlines()[-1]
