"""Ways to train: bare loops, and ours through the Trainer. Each function trains for ever, and imports what it needs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from llm import GPT, GPTConfig

Size = dict[str, int]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def gpt_config(size: Size) -> GPTConfig:
    return GPTConfig(size["V"], size["T"], size["L"], size["H"], size["C"], dropout=0.0)


def loop(size: Size, ids: torch.Tensor, compiled: bool) -> None:
    """What a person writes who writes the loop: AdamW as torch has it, the gradient norm clipped."""
    model = GPT(gpt_config(size)).to(DEVICE)
    forward = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    ids = ids.to(DEVICE)
    while True:
        for batch in ids.split(size["B"]):
            optimizer.zero_grad()
            with torch.autocast(DEVICE, torch.bfloat16, enabled=compiled):
                logits = forward(batch[:, :-1])
                loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()


def module_step(
    model: GPT, optimizer: torch.optim.Optimizer, compiled: bool = False, precision: torch.dtype | None = torch.bfloat16
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Our module's own step without a Trainer: inputs and targets `(B, T)` -> the loss.

    Args:
        model: what is trained, where it is.
        optimizer: of all its parameters.
        compiled: as with `--model.compile true`.
        precision: of autocast; None for none.
    """
    from llm.runtime.compiling import Compiled
    from llm.training.judging import may_be_judged_later, take_if
    from llm.training.loss import compiled_cross_entropy, cross_entropy_with_grad_, head_loss

    parameters = list(model.parameters())
    device = parameters[0].device
    features = Compiled(model.hidden_states) if compiled else model.hidden_states
    cross_entropy = compiled_cross_entropy(device) if compiled else cross_entropy_with_grad_

    def step(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, precision, enabled=precision is not None):
            loss = head_loss(
                model.head, features(inputs), targets, scale=1 / targets.numel(), cross_entropy=cross_entropy
            ).loss
        loss.backward()
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if may_be_judged_later(optimizer, device):
            take_if(norm.isfinite(), optimizer, gradients, (1.0 / (norm + 1e-6)).clamp(max=1.0))
        elif norm > 1.0:  # as the module does: nothing is multiplied by one
            torch.nn.utils.clip_grads_with_norm_(parameters, 1.0, norm)
        optimizer.step()
        return loss.detach()

    return step


def module_loop(size: Size, ids: torch.Tensor) -> None:
    """Our module's own step, again and again: what the Trainer's own cost is measured against."""
    from llm import OptimConfig
    from llm.training.optimizer import build_optimizer

    model = GPT(gpt_config(size)).to(DEVICE)
    step = module_step(model, build_optimizer(model, OptimConfig()))
    ids = ids.to(DEVICE)
    while True:
        for batch in ids.split(size["B"]):
            step(batch[:, :-1], batch[:, 1:])


def trainer(size: Size, ids: torch.Tensor, folder: Path, *flags: str) -> None:
    """As a user does: `train.py fit` with all its callbacks, on random tokens: a text of characters, or GPT-2's ids."""
    from llm.cli.main import main as train

    corpus, tokenizer = folder / "corpus.bin", "gpt2"
    if size["V"] == 65:
        corpus, tokenizer = folder / "corpus.txt", "char"
        letters = [chr(ord("0") + token) for token in range(65)]
        corpus.write_text("".join(letters) + "".join(letters[token] for token in ids.flatten().tolist()))
    else:
        ids.flatten().numpy().astype("<u2").tofile(corpus)
    words = {
        "data.corpus": corpus,
        "data.tokenizer.kind": tokenizer,
        "data.context_length": size["T"],
        "data.batch_size": size["B"],
        "data.cache_dir": folder / "cache",
        "model.gpt.n_layer": size["L"],
        "model.gpt.n_head": size["H"],
        "model.gpt.n_embd": size["C"],
        "model.gpt.dropout": 0.0,
        "trainer.accelerator": DEVICE,
        "trainer.devices": 1,
        "trainer.max_steps": 1_000_000,
        "trainer.val_check_interval": 1_000_000,
        "trainer.num_sanity_val_steps": 0,
        "trainer.logger.init_args.save_dir": folder / "runs",
    }
    if tokenizer == "char":
        words["data.tokenizer.specials"] = "[]"
    if status := train(["fit", *(f"--{name}={value}" for name, value in words.items()), *flags]):
        sys.exit(status)
