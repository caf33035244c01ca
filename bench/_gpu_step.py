"""The step of GPT-2 124M: a plain compiled loop against ours, eager, compiled and through the Trainer."""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from bench import _ways
from bench._gpu import Lab, last_line, n_parameters
from bench._gpu_profile import profiled, profiler, summary
from bench._nanogpt import NanoGPT, training_step
from llm import GPT, GPTConfig, OptimConfig
from llm.model import Head
from llm.runtime.compiling import Compiled
from llm.runtime.hardware import peak_flops
from llm.training.flops import flops_per_token
from llm.training.fused_loss import CrossEntropyWithGrad
from llm.training.loss import (
    compilable_cross_entropy_with_grad_,
    cross_entropy_with_grad_,
    head_loss,
)
from llm.training.optimizer import build_optimizer

Step = Callable[[Tensor, Tensor], object]

PADDED = 64
"""GPT-2's 50,257 tokens become 50,304, as in nanoGPT."""
PROFILED_STEPS = 3


def measure(lab: Lab) -> None:
    """Each way at the largest batch that fits, and the head's loss alone."""
    config = lab.gpt
    padded = replace(config, vocab_multiple=PADDED)

    def plain(config: GPTConfig) -> Step:
        sizes = config.context_length, config.n_layer, config.n_head, config.n_embd
        return training_step(NanoGPT(config.padded_vocab_size, *sizes).to(lab.device), lab.device)[1]

    def ours(config: GPTConfig, compiled: bool) -> Step:
        model = GPT(config).to(lab.device)
        return _ways.module_step(model, build_optimizer(model, OptimConfig()), compiled)

    lab.attempt("ours compiled", 40, lambda: largest(lab, lambda: ours(config, True), with_profile=True))
    lab.attempt("plain compiled, padded", 30, lambda: largest(lab, lambda: plain(padded)))
    lab.attempt("trainer compiled", 40, lambda: through_trainer(lab))
    lab.attempt("plain compiled", 30, lambda: largest(lab, lambda: plain(config), with_profile=True))
    lab.attempt("ours", 15, lambda: largest(lab, lambda: ours(config, False)))
    head_losses(lab)
    lab.attempt("ours compiled, padded", 40, lambda: largest(lab, lambda: ours(padded, True)))
    lab.note("ratios", ratios(lab.results))


def ratios(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """How many times as fast each way is as each plain loop, in tokens/s."""
    rates = {way: row["tokens_per_second"] for way, row in results.items() if "tokens_per_second" in row}
    plains = [way for way in rates if way.startswith("plain")]
    return {f"to {plain}": {way: rate / rates[plain] for way, rate in rates.items()} for plain in plains}


def largest(lab: Lab, build: Callable[[], Step], with_profile: bool = False) -> dict[str, Any]:
    """A way at the largest batch that fits."""
    too_large = None
    for batch in lab.batches:
        try:
            return at_batch(lab, build, batch, with_profile) | ({"too_large": too_large} if too_large else {})
        except torch.OutOfMemoryError:
            too_large = batch
        lab.free()  # out here, where no traceback holds its tensors
    raise RuntimeError(f"no batch of {lab.batches} fits")


def at_batch(lab: Lab, build: Callable[[], Step], batch: int, with_profile: bool) -> dict[str, Any]:
    torch.manual_seed(0)
    step = build()
    ids = torch.randint(lab.gpt.vocab_size, (4 * batch, lab.gpt.context_length + 1), device=lab.device)
    batches = [part.contiguous() for part in ids.split(batch)]
    count = 0

    def next_step() -> None:
        nonlocal count
        part = batches[count % len(batches)]
        step(part[:, :-1], part[:, 1:])
        count += 1

    row = rates(lab, batch, lab.timed(next_step))
    if with_profile:
        row["profile"] = profiled(next_step, PROFILED_STEPS, lab.device)
    return row


def rates(lab: Lab, batch: int, times: dict[str, float | None]) -> dict[str, Any]:
    """Tokens/s and MFU, of the architecture without padding, to what was timed."""
    tokens_per_second = batch * lab.gpt.context_length / (times["ms"] or 1e-9) * 1e3
    peak = peak_flops(torch.device(lab.device), "bf16-mixed")
    mfu = tokens_per_second * flops_per_token(lab.gpt, n_parameters(lab.gpt)) / peak if peak else None
    return {"batch": batch, "tokens_per_second": tokens_per_second, "mfu": mfu, **times}


class Enough(BaseException):
    """Ends a run from within; no `Exception`, so that nobody takes it for an error."""


def through_trainer(lab: Lab) -> dict[str, Any]:
    """`train.py fit` with everything, compiled, at the batch of our compiled module."""
    config = lab.gpt
    batch = lab.results.get("ours compiled", {}).get("batch", lab.batches[-1])
    n_warmup, n_steps = (1, 2) if lab.tiny else (23, 20)  # the first logging steps load kernels
    count, began, times = 0, 0.0, dict[str, Any]()
    prof, said = profiler(lab.device), io.StringIO()

    def after_step(*_: object) -> None:
        nonlocal count, began
        count += 1
        if count == n_warmup:
            began = now(lab)
        elif count == n_warmup + n_steps:
            times.update(ms=(now(lab) - began) / n_steps * 1e3, peak_mb=lab.peak_mb())
            prof.start()
        elif count == n_warmup + n_steps + PROFILED_STEPS:
            lab.finish()
            prof.stop()
            raise Enough

    size = {"V": config.vocab_size, "T": config.context_length, "B": batch}
    size |= {"L": config.n_layer, "H": config.n_head, "C": config.n_embd}
    torch.manual_seed(0)
    ids = torch.randint(config.vocab_size, (52 * batch, config.context_length + 1))  # an epoch's end comes later
    lab.forget_peak()
    hook = register_optimizer_step_post_hook(after_step)
    try:
        with tempfile.TemporaryDirectory(dir=lab.folder) as folder:
            flags = "--model.compile=true", "--trainer.precision=bf16-mixed"
            with contextlib.redirect_stderr(said):
                _ways.trainer(size, ids, Path(folder), *flags)
    except Enough:
        pass
    except SystemExit as error:
        raise RuntimeError(last_line(said.getvalue())) from error
    finally:
        hook.remove()
    return rates(lab, batch, times) | {"profile": summary(prof, PROFILED_STEPS, lab.device)}


def now(lab: Lab) -> float:
    lab.finish()
    return time.perf_counter()


def head_losses(lab: Lab) -> None:
    """The head and the loss alone, forward and backward, of 16 windows: ours and torch's."""
    config = lab.gpt
    batch = min(16, max(lab.batches))
    shape = batch, config.context_length
    x = torch.randn(*shape, config.n_embd, device=lab.device, requires_grad=True)
    targets = torch.randint(config.vocab_size, shape, device=lab.device)

    def torchs(head: Head) -> Callable[[], Tensor]:
        @torch.compile
        def loss_of(x: Tensor, weight: Tensor) -> Tensor:
            return F.cross_entropy(F.linear(x, weight).flatten(0, 1).float(), targets.flatten())

        return lambda: loss_of(x, head.weight)

    def ours(head: Head, compiled: bool) -> Callable[[], Tensor]:
        plain: CrossEntropyWithGrad = cross_entropy_with_grad_
        way = Compiled(compilable_cross_entropy_with_grad_, plain) if compiled else plain
        return lambda: head_loss(head, x, targets, scale=1 / targets.numel(), cross_entropy=way).loss

    def forward_and_backward(loss_of: Callable[[], Tensor], head: Head) -> dict[str, Any]:
        def step() -> None:
            x.grad = head.weight.grad = None
            with torch.autocast(lab.device, torch.bfloat16):
                loss = loss_of()
            loss.backward()

        return {"batch": batch, **lab.timed(step)}

    for name, vocab_multiple in (("", 1), (", padded", PADDED)):
        head = Head(replace(config, vocab_multiple=vocab_multiple)).to(lab.device)
        torch.nn.init.normal_(head.weight, std=0.02)
        ways = {"ours": ours(head, False), "ours compiled": ours(head, True), "torch compiled": torchs(head)}
        for way, loss_of in ways.items():
            lab.attempt(f"head: {way}{name}", 6, partial(forward_and_backward, loss_of, head))
