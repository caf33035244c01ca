"""Whole runs on a GPU: the same bits when resumed or inspected, NaN, SIGTERM, FSDP, and the tests marked `gpu`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

import llm
from bench._gpu import Lab, last_line, train

REPOSITORY = Path(__file__).parents[1]
STEPS = 12


# The same bits


def exactness(lab: Lab) -> None:
    """Small runs of `train.py fit` with deterministic kernels, whose last weights are compared bit for bit."""
    before = torch.are_deterministic_algorithms_enabled()
    try:
        flag = "--trainer.deterministic=true"
        whole = lab.attempt("whole", 6, lambda: fit(lab, "whole", STEPS, flag))
        if whole is None:  # an operation has no deterministic form: say so, and see whether the bits are the same still
            flag = "--trainer.deterministic=warn"
            whole = lab.attempt("whole, only warned", 6, lambda: fit(lab, "warned", STEPS, flag))
        lab.attempt("inspection off", 3, lambda: same(whole, fit(lab, "plain", STEPS, flag, "--inspect.every=0")))
        lab.attempt("resumed", 5, lambda: same(whole, resumed(lab, flag)))
        lab.attempt("nan", 4, lambda: with_nan(lab))
        lab.attempt("sigterm", 4, lambda: told_to_stop(lab))
    finally:
        torch.use_deterministic_algorithms(before)


def words_of(lab: Lab, folder: Path) -> list[str]:
    """A GPT on the story, with GPT-2's vocabulary and dropout, and a learning rate that no length changes."""
    words = {
        "data.tokenizer.kind": "gpt2",
        "data.context_length": 16 if lab.tiny else 64,
        "data.batch_size": 4,
        "data.cache_dir": lab.folder / "cache",
        "model.gpt.n_layer": 1 if lab.tiny else 4,
        "model.gpt.n_head": 2,
        "model.gpt.n_embd": 16 if lab.tiny else 128,
        "model.gpt.dropout": 0.1,
        "model.optim.warmup_steps": 2,
        "model.optim.final_learning_rate_ratio": 1.0,
        "model.sampling.max_new_tokens": 4,
        "trainer.accelerator": lab.device,
        "trainer.devices": 1,
        "trainer.num_sanity_val_steps": 0,
        "trainer.val_check_interval": STEPS // 2,
        "trainer.limit_val_batches": 2,
        "trainer.logger.init_args.save_dir": folder,
    }
    return [f"--{name}={value}" for name, value in words.items()]


def fit(lab: Lab, name: str, steps: int, *flags: str, status: int = 0) -> dict[str, Any]:
    """Train in a folder of its own; gives that and the last line said.

    Raises:
        RuntimeError: the exit status is another.
    """
    folder = lab.folder / name
    words = [*words_of(lab, folder), "--inspect.every=4"]
    found, said = train(*words, f"--trainer.max_steps={steps}", *flags)
    if found != status:
        raise RuntimeError(f"exit status {found}, {status} was expected: {last_line(said)}")
    return {"folder": str(folder), "status": found, "said": last_line(said)}


def weights_of(run: dict[str, Any]) -> dict[str, Tensor]:
    """Those of the newest `last.ckpt`, on the CPU."""
    path = max(Path(run["folder"]).rglob("last.ckpt"), key=lambda path: path.stat().st_mtime)
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    return weights


def same(whole: dict[str, Any] | None, other: dict[str, Any]) -> dict[str, Any]:
    """Whether two runs end with the same bits.

    Raises:
        RuntimeError: the weights are not the same bits.
    """
    if whole is None:
        raise RuntimeError("there is no whole run to compare with")
    expected, found = weights_of(whole), weights_of(other)
    off = {name: float((value - found[name]).abs().max()) for name, value in expected.items()}
    if differing := {name: value for name, value in off.items() if not torch.equal(expected[name], found[name])}:
        name = max(differing, key=lambda name: differing[name])
        raise RuntimeError(f"{len(differing)} of {len(off)} tensors differ, most {name}, by {differing[name]:.3g}")
    return {"same_bits": True, "tensors": len(off)}


def resumed(lab: Lab, *flags: str) -> dict[str, Any]:
    """Half of the run, then the rest."""
    fit(lab, "halves", STEPS // 2, *flags)
    return fit(lab, "halves", STEPS, "--ckpt_path=last", *flags)


def at_step(number: int, do: Callable[[torch.optim.Optimizer], None]) -> torch.utils.hooks.RemovableHandle:
    """Do something after the nth optimizer step from now, in whatever run."""
    count = 0

    def after_step(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal count
        count += 1
        if count == number:
            do(optimizer)

    return register_optimizer_step_post_hook(after_step)


def with_nan(lab: Lab) -> dict[str, Any]:
    """A NaN gradient ends the run, with the weights of the step before."""
    pairs: list[tuple[torch.nn.Parameter, Tensor]] = []

    def poison(optimizer: torch.optim.Optimizer) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        pairs.extend((p, p.detach().cpu().clone()) for p in parameters)
        parameters[-1].register_hook(lambda grad: grad * float("nan"))

    hook = at_step(3, poison)
    try:
        run = fit(lab, "nan", STEPS, status=1)
    finally:
        hook.remove()
    if not pairs or not all(torch.equal(parameter.detach().cpu(), before) for parameter, before in pairs):
        raise RuntimeError("the weights are not those of the step before the NaN")
    return run | {"weights_of_the_step_before": True}


def told_to_stop(lab: Lab) -> dict[str, Any]:
    """SIGTERM during a run: a checkpoint, and 143."""
    hook = at_step(3, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    try:
        run = fit(lab, "sigterm", STEPS, status=128 + signal.SIGTERM)
    finally:
        hook.remove()
    return run | {"saved": all(bool(value.isfinite().all()) for value in weights_of(run).values())}


# In processes of their own


def fsdp(lab: Lab) -> None:
    """Three steps on one device, whose checkpoint the CPU reads; and Muon, which is refused. On a CPU both are."""
    limit = min(lab.left, 90.0)
    common = ["--trainer.strategy=fsdp", "--trainer.max_steps=3", "--trainer.val_check_interval=3"]
    runs = {}
    for name, flags in {"adamw": [], "muon": ["--model.optim.kind=muon"]}.items():
        folder = lab.folder / f"fsdp-{name}"
        command = [sys.executable, "train.py", "fit", *words_of(lab, folder), *common, *flags]
        runs[name] = subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def ended(name: str) -> tuple[int, str]:
        try:
            said = runs[name].communicate(timeout=limit)[1].decode(errors="replace")
        except subprocess.TimeoutExpired:
            runs[name].kill()
            raise
        return runs[name].returncode, last_line(said)

    def trained() -> dict[str, Any]:
        status, said = ended("adamw")
        row: dict[str, Any] = {"status": status, "said": said}
        if status != (0 if lab.device == "cuda" else 1):
            raise RuntimeError(f"exit status {status}: {said}")
        if status == 0:
            path = next((lab.folder / "fsdp-adamw").rglob("last.ckpt"))
            model = llm.load(str(path)).model.to("cpu")
            logits = model(torch.arange(8)[None])
            row |= {"checkpoint_bytes": path.stat().st_size, "read_on_cpu": bool(logits.isfinite().all())}
        return row

    def refused() -> dict[str, Any]:
        status, said = ended("muon")
        if status != 1 or not said.startswith("error:"):
            raise RuntimeError(f"not refused in a line: exit status {status}: {said}")
        return {"status": status, "said": said}

    lab.attempt("trained", 0, trained)
    lab.attempt("muon", 0, refused)


def tests(lab: Lab) -> None:
    """`pytest -m gpu`; when tiny, of one file."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider"]
    command += ["-n", "0", "tests/model/test_cache.py"] if lab.tiny else ["-n", "4"]

    def run() -> dict[str, Any]:
        done = subprocess.run(
            command, cwd=REPOSITORY, capture_output=True, text=True, timeout=min(lab.left, 150.0), check=False
        )
        lines = done.stdout.strip().splitlines() + done.stderr.strip().splitlines()[-5:]
        if done.returncode:
            lab.note("output", lines[-60:])
            raise RuntimeError(f"exit status {done.returncode}: {lines[-1] if lines else ''}")
        return {"status": done.returncode, "said": last_line(done.stdout)}

    lab.attempt("pytest -m gpu", 0, run)
