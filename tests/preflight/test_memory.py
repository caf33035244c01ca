"""The formula of the memory, against what autograd really keeps."""

from __future__ import annotations

import contextlib

import pytest
import torch

from llm.config import GPTConfig, OptimConfig
from llm.model import GPT
from llm.preflight.memory import Parameters, activation_bytes, expected_memory, free_memory, process_memory
from llm.preflight.sizes import in_bytes, in_time
from llm.preflight.timing import measure_steps, reckoned_seconds
from llm.training.loss import head_loss
from llm.training.optimizer import build_optimizer

SMALL = {"vocab_size": 60, "context_length": 64, "n_layer": 3, "n_head": 4, "n_embd": 64}


def kept(config: GPTConfig, batch_size: int, precision: str) -> int:
    """Bytes that autograd keeps for the backward pass, the weights and their copies not counted."""
    model = GPT(config)
    weights = {tuple(parameter.shape) for parameter in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor):
        if tensor.ndim < 2 or not {tuple(tensor.shape), tuple(tensor.mT.shape)} & weights:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(config.vocab_size, (batch_size, config.context_length))
    mixed = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), mixed:
        loss = head_loss(model.head, model.features(ids), ids).mean
    del loss
    return sum(found.values())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.0},
        {"dropout": 0.2},
        {"dropout": 0.0, "context_length": 256},
        {"dropout": 0.0, "positions": "rotary", "qk_norm": True, "norm": "rms_norm", "activation": "squared_relu"},
        {"dropout": 0.0, "attention": "causal"},
    ],
    ids=str,
)
def test_activations_are_what_autograd_keeps(settings, precision):
    config = GPTConfig(**{**SMALL, **settings})
    B, T = 16, config.context_length
    passing = max(4 * config.hidden_size, 5 * config.heads * T if config.dropout else 0)
    value = 2 if precision == "bf16-mixed" else 4
    tables = 4 if config.dropout and T < 256 else value
    passing *= tables if config.dropout and 5 * config.heads * T > 4 * config.hidden_size else value
    expected = activation_bytes(config, B, precision, "cpu") - B * T * passing
    assert expected == pytest.approx(kept(config, B, precision), rel=0.25)


@pytest.mark.parametrize("n_layer", [1, 2, 7])
@pytest.mark.parametrize("settings", [{}, {"tie_head": False, "vocab_multiple": 64}, {"positions": "rotary"}], ids=str)
def test_parameters_are_counted_without_a_model(n_layer, settings):
    config = GPTConfig(**{**SMALL, "n_layer": n_layer, **settings})
    found = Parameters.of(config, OptimConfig(kind="muon"))
    model = GPT(config)
    assert found.total == model.n_parameters
    assert found.embeddings == model.n_parameters - sum(
        p.numel() for part in (model.blocks, model.final_norm) for p in part.parameters()
    )
    assert Parameters.of(config, OptimConfig()).muon == 0


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_optimizer_holds_what_was_expected(kind):
    config, optim = GPTConfig(**SMALL), OptimConfig(kind=kind)
    model = GPT(config)
    optimizer = build_optimizer(model, optim)
    model(torch.zeros(1, 4, dtype=torch.int64)).sum().backward()
    optimizer.step()
    held = sum(
        value.nbytes for state in optimizer.state.values() for value in state.values() if getattr(value, "ndim", 0) > 0
    )
    memory = expected_memory(config, Parameters.of(config, optim), 1, "32-true", "cpu")
    assert memory.optimizer == held
    assert memory.weights == memory.gradients == 4 * model.n_parameters


def test_what_there_is_is_known_on_this_machine():
    free = free_memory("cpu")
    assert free is None or free > 1 << 20
    assert process_memory() >= 0


def test_the_time_of_a_batch_is_reckoned_and_measured():
    config = GPTConfig(**SMALL)
    reckoned = reckoned_seconds(config, 200_000, 4, "32-true", "cpu")
    measured = measure_steps(config, OptimConfig(), 4, "32-true", "cpu")
    assert reckoned is not None
    assert 0.02 < reckoned / measured.seconds < 50  # how good it is: bench/preflight.py
    assert reckoned_seconds(config, 200_000, 4, "32-true", "mps") is None


def test_sizes_and_times_are_read_easily():
    assert [in_bytes(n) for n in (12, 28_937_728, 999_600, 3.2e12)] == ["12 bytes", "28.9 MB", "1 MB", "3.2 TB"]
    assert [in_time(s) for s in (0.21, 9.96, 80, 60, 3_600, 3_659.9, 90_000)] == [
        "0.21 s", "10 s", "1 min 20 s", "1 min", "1 h", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip
