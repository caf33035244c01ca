"""Generation, the preflight's estimates, the modern preset and TF32 on a GPU, in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from bench import _ways, preflight
from bench._gpu import Lab, last_line, train
from bench._nanogpt import NanoGPT, training_step
from llm import GPT, GPTConfig, OptimConfig, SamplingConfig, TextDataModule, TokenizerConfig, generate_batch
from llm.pretrained.twin import hugging_face_twin
from llm.training.optimizer import build_optimizer, build_schedule, learning_rate_at

REPOSITORY = Path(__file__).parents[1]


# Generation


def generation(lab: Lab) -> None:
    """Tokens/s of random weights in bfloat16, greedy, 1 and 16 texts: ours with and without graphs, transformers'."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    config = lab.gpt
    torch.manual_seed(0)
    model = GPT(config).to(lab.device, torch.bfloat16).eval()
    twin = hugging_face_twin(model).to(lab.device, torch.bfloat16)
    n_prompt, n_new = (4, 4) if lab.tiny else (32, 200)
    prompts = torch.randint(config.vocab_size, (16, n_prompt), device=lab.device)

    def ours(compile: Any, n_rows: int) -> Callable[[], list[list[int]]]:
        sampling = SamplingConfig(n_new, temperature=0.0, top_k=None, compile=compile, prompt_lookup=0)
        return lambda: [samples[0] for samples in generate_batch(model, list(prompts[:n_rows]), sampling)]

    def theirs(n_rows: int) -> list[list[int]]:
        some = prompts[:n_rows]
        settings = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0, "max_new_tokens": n_new}
        with torch.no_grad():
            found = twin.generate(some, attention_mask=torch.ones_like(some), **settings)
        return list(found[:, n_prompt:].tolist())

    def rows_of(n_rows: int) -> None:
        texts: dict[str, list[list[int]]] = {}
        rows: dict[str, Any] = {}

        def rate(name: str, write: Callable[[], list[list[int]]]) -> dict[str, Any]:
            times = lab.timed(lambda: texts.update({name: write()}), warmup=0, steps=3 if name == "graphs" else 1)
            row = {"tokens_per_second": n_rows * n_new / (times["ms"] or 1e-9) * 1e3, **times}
            if reference := rows.get("transformers"):
                row["to_transformers"] = row["tokens_per_second"] / reference["tokens_per_second"]
                pairs = zip(texts[name], texts["transformers"], strict=True)
                row["same_texts"] = sum(a == b for a, b in pairs) / n_rows
            return row

        ways = {
            "transformers": lambda: theirs(n_rows),
            "graphs": ours("always", n_rows),
            "eager": ours("never", n_rows),
        }
        for name, seconds in {"transformers": 10, "graphs": 20, "eager": 8}.items():
            rows[name] = lab.attempt(f"{n_rows}: {name}", seconds, partial(rate, name, ways[name]))

    rows_of(1)
    rows_of(16)


# Preflight


def estimates(lab: Lab) -> None:
    """Memory and seconds of a batch of 16, as the preflight estimates them and as found in a few steps."""
    batch = 2 if lab.tiny else 16

    def found() -> dict[str, Any]:
        row: dict[str, Any] = preflight.one(asdict(lab.gpt), batch, "bf16-mixed", lab.device)
        estimated = row["estimated_seconds"]
        row["memory_ratio"] = row["estimated_bytes"] / row["bytes"]
        row["seconds_ratio"] = estimated / row["seconds"] if estimated else None
        return {"batch": batch, **row}

    def command() -> dict[str, Any]:
        file = REPOSITORY / "configs" / ("default.yaml" if lab.tiny else "gpt2/124m.yaml")
        torch.randint(50257, (400_000,)).numpy().astype("<u2").tofile(corpus := lab.folder / "corpus.bin")
        words = {
            "config": file,
            "data.corpus": corpus,
            "data.batch_size": batch,
            "data.cache_dir": lab.folder / "cache",
            "trainer.accelerator": lab.device,
            "trainer.devices": 1,
            "trainer.logger.init_args.save_dir": lab.folder / "runs",
            "preflight": "true",
        }
        status, said = train(*(f"--{name}={value}" for name, value in words.items()))
        if status:
            raise RuntimeError(f"exit status {status}: {last_line(said)}")
        return {"said": said.splitlines()}

    lab.attempt("124m", 8, found)
    lab.attempt("train.py fit --preflight", 8, command)


# The modern preset


def modern(lab: Lab) -> None:
    """Validation loss by steps and seconds: a plain compiled GPT-2, and the options of configs/modern.yaml."""
    settings = yaml.safe_load((REPOSITORY / "configs" / "modern.yaml").read_text(encoding="utf-8"))["model"]
    steps, every, batch = (4, 2, 2) if lab.tiny else (120, 10, 16)
    corpus = lab.corpus or "story"
    fraction = 0.1 if lab.corpus else 0.25  # the story is short
    data = TextDataModule(
        corpus,
        TokenizerConfig(),
        lab.gpt.context_length,
        batch_size=1,  # windows are drawn from its tokens here
        validation_fraction=fraction,
        cache_dir=str(lab.folder / "cache"),
    )
    data.prepare_data()
    data.setup("fit")
    tokens = torch.from_numpy(data.train_tokens.astype("int64")).to(lab.device)
    held = torch.from_numpy(data.validation_tokens.astype("int64")).to(lab.device)
    lab.note("corpus", {"train_tokens": len(tokens), "validation_tokens": len(held), "steps": steps, "batch": batch})

    def plain() -> dict[str, Any]:
        config = lab.gpt
        sizes = config.context_length, config.n_layer, config.n_head, config.n_embd
        torch.manual_seed(0)
        model = NanoGPT(config.vocab_size, *sizes).to(lab.device)
        optim = OptimConfig(learning_rate=1e-3, warmup_steps=10)
        optimizer, step = training_step(model, lab.device, optim.learning_rate)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_at(step, optim, steps))
        return curve(lab, tokens, held, step, rate.step, model, steps, every, batch)

    def preset() -> dict[str, Any]:
        names = ("n_layer", "n_head", "n_embd", "vocab_size", "context_length", "dropout")
        own = {name: getattr(lab.gpt, name) for name in names}
        torch.manual_seed(0)
        model = GPT(GPTConfig(**{**settings["gpt"], **own})).to(lab.device)
        optim = OptimConfig(**settings["optim"])
        optimizer = build_optimizer(model, optim)
        step = _ways.module_step(model, optimizer, compiled=True)
        schedule = build_schedule(optimizer, optim, steps)

        def loss_of(inputs: Tensor, targets: Tensor) -> Tensor:
            return F.cross_entropy(model(inputs).flatten(0, 1).float(), targets.flatten())

        return {"parameters": model.n_parameters} | curve(
            lab, tokens, held, step, schedule.step, loss_of, steps, every, batch
        )

    theirs = lab.attempt("plain compiled", 45, plain)
    ours = lab.attempt("modern compiled", 60, preset)
    if theirs and ours:
        goal = min(point["validation_loss"] for point in theirs["curve"])
        first = next((point for point in ours["curve"] if point["validation_loss"] <= goal), None)
        plains = next(point for point in theirs["curve"] if point["validation_loss"] == goal)
        reached = first and {"step": first["step"], "seconds_ratio": plains["seconds"] / max(first["seconds"], 1e-9)}
        lab.note("goal", {"loss": goal, "plain_step": plains["step"], "reached": reached or "not reached"})


def curve(
    lab: Lab,
    tokens: Tensor,
    held: Tensor,
    step: Callable[[Tensor, Tensor], object],
    after: Callable[[], None],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    steps: int,
    every: int,
    batch: int,
) -> dict[str, Any]:
    """Train on windows drawn at random; validation, and the first step, which compiles, do not count as time."""
    T = lab.gpt.context_length
    random = torch.Generator().manual_seed(0)
    points, seconds, first = [], 0.0, 0.0
    start = time.perf_counter()
    for count in range(1, steps + 1):
        starts = torch.randint(len(tokens) - T, (batch, 1), generator=random).to(lab.device)
        windows = tokens[starts + torch.arange(T + 1, device=lab.device)]  # (B, 1) + (T + 1) -> (B, T + 1)
        step(windows[:, :-1], windows[:, 1:])
        after()
        if count == 1:
            lab.finish()
            first, start = time.perf_counter() - start, time.perf_counter()
        if count % every == 0:
            lab.finish()
            seconds += time.perf_counter() - start
            points.append({"step": count, "seconds": seconds, "validation_loss": validation(lab, held, loss_of)})
            start = time.perf_counter()
    ms = seconds / (steps - 1) * 1e3
    return {"ms": ms, "first_step_seconds": first, "last": points[-1]["validation_loss"], "curve": points}


@torch.no_grad()
def validation(lab: Lab, held: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor]) -> float:
    """The mean loss of at most 16 windows."""

    def windows() -> Iterator[Tensor]:
        T = lab.gpt.context_length
        for start in range(0, min(len(held) - T, 16 * T), T):
            yield held[None, start : start + T + 1]  # (1, T + 1)

    with torch.autocast(lab.device, torch.bfloat16):
        losses = [loss_of(window[:, :-1], window[:, 1:]).float() for window in windows()]
    return float(torch.stack(losses).mean())


# TF32


def tf32(lab: Lab) -> None:
    """What is on as it comes, and what a step in float32 takes with and without TF32."""
    config = lab.gpt if lab.tiny else replace(lab.gpt, n_layer=6, n_embd=384, n_head=6, context_length=256)
    before = torch.get_float32_matmul_precision()
    lab.note("as it comes", before)
    torch.manual_seed(0)
    ids = torch.randint(config.vocab_size, (2 if lab.tiny else 32, config.context_length + 1), device=lab.device)
    logits: dict[str, Tensor] = {}

    def in_precision(precision: str) -> dict[str, Any]:
        torch.set_float32_matmul_precision(precision)
        torch.manual_seed(0)
        model = GPT(config).to(lab.device)
        with torch.no_grad():
            logits[precision] = model(ids[:1, :-1])
        step = _ways.module_step(model, build_optimizer(model, OptimConfig()), precision=None)
        return lab.timed(lambda: step(ids[:, :-1], ids[:, 1:]))

    try:
        rows = {name: lab.attempt(name, 4, partial(in_precision, name)) for name in ("highest", "high")}
    finally:
        torch.set_float32_matmul_precision(before)
    if all(rows.values()):
        off = float((logits["high"] - logits["highest"]).abs().max())
        lab.note("tf32", {"times_as_fast": rows["highest"]["ms"] / rows["high"]["ms"], "logits_off": off})
