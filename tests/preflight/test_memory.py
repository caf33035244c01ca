"""Memory and operations of a step as counted, against what autograd really keeps and against PaLM's formula."""

from __future__ import annotations

import contextlib
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from llm.config import EncoderConfig, GPTConfig, LoRAConfig, OptimConfig
from llm.model import GPT
from llm.model.trained import Trained, trained_network
from llm.preflight.costs import step_costs
from llm.preflight.memory import Parameters, expected_memory, free_memory, process_memory
from llm.preflight.sizes import in_bytes, in_time
from llm.preflight.timing import estimated_seconds, measure_steps
from llm.training.flops import flops_per_token
from llm.training.loss import LARGE_VOCABULARY, head_loss
from llm.training.optimizer import build_optimizer

SMALL = {"vocab_size": 60, "context_length": 64, "n_layer": 3, "n_head": 4, "n_embd": 64}


def kept(config: GPTConfig, batch_size: int, precision: str) -> int:
    """Bytes that autograd really keeps for the backward pass, those of the weights themselves not counted."""
    model = GPT(config)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    found: dict[int, int] = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    ids = torch.randint(config.vocab_size, (batch_size, config.context_length))
    mixed = torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else contextlib.nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), mixed:
        loss = F.cross_entropy(model(ids).flatten(0, 1).float(), ids.flatten())
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
        {"dropout": 0.0, "positions": "rotary", "mlp": "gated", "activation": "silu", "n_kv_head": 1},
        {"dropout": 0.0, "sandwich_norm": True, "attention_softcap": 5.0, "sliding_window": 8},
        {"dropout": 0.0, "attention": "causal"},
        {"dropout": 0.0, "normalize_scores": "sum"},
    ],
    ids=str,
)
def test_activations_are_what_autograd_keeps(settings, precision):
    config = GPTConfig(**{**SMALL, **settings})
    assert step_costs(config, 16, precision, "cpu").kept == pytest.approx(kept(config, 16, precision), rel=0.05)


@pytest.mark.parametrize("full_attention_layers", [(), (0, 1), (1, 3, 5), (0, 1, 2, 3, 4, 5, 6)])
def test_masks_of_a_window_are_counted_on_the_layers_that_have_it(full_attention_layers):
    sizes = {**SMALL, "context_length": 256, "n_layer": 6, "dropout": 0.0, "sliding_window": 64}
    config = GPTConfig(**sizes, full_attention_layers=full_attention_layers)
    assert step_costs(config, 1, "32-true", "cpu").kept == pytest.approx(kept(config, 1, "32-true"), rel=0.01)


@pytest.mark.parametrize("vocab_size", [60, 50257])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("settings", [{}, {"positions": "rotary", "qk_norm": True, "norm": "rms_norm"}], ids=str)
def test_operations_are_those_of_the_formula_of_palm(settings, dropout, vocab_size):
    config = GPTConfig.gpt2("124m", vocab_size=vocab_size, dropout=dropout, **settings)
    n_parameters = Parameters.of(config, OptimConfig()).total
    counted = step_costs(config, 2, "32-true", "cpu").flops / (2 * config.context_length)
    assert counted == pytest.approx(flops_per_token(config, n_parameters), rel=0.01)


def test_a_larger_vocabulary_costs_the_head_and_the_gradients_of_its_fused_loss():
    below, above = (
        step_costs(GPTConfig(**{**SMALL, "vocab_size": V}), 4, "32-true", "cpu")
        for V in (LARGE_VOCABULARY, 2 * LARGE_VOCABULARY)
    )
    tokens, C, more = 4 * SMALL["context_length"], SMALL["n_embd"], LARGE_VOCABULARY
    assert above.flops - below.flops == 6 * tokens * C * more
    assert above.kept - below.kept == 4 * C * more


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
    memory = expected_memory(Parameters.of(config, optim), step_costs(config, 1, "32-true", "cpu"), "32-true", "cpu")
    assert memory.optimizer == held
    assert memory.weights == memory.gradients == 4 * model.n_parameters


def test_what_there_is_is_known_on_this_machine():
    free = free_memory("cpu")
    assert free is None or free > 1 << 20
    assert process_memory() >= 0


def test_the_time_of_a_batch_is_estimated_and_measured():
    config = GPTConfig(**SMALL)
    costs = step_costs(config, 4, "32-true", "cpu")
    estimated = estimated_seconds(config, costs, 4, "32-true", "cpu")
    measured = measure_steps(config, OptimConfig(), 4, "32-true", "cpu")
    assert estimated is not None
    assert 0.02 < estimated / measured.seconds < 50  # how good it is: bench/preflight.py
    assert estimated_seconds(config, costs, 4, "32-true", "mps") is None


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_peak_on_a_gpu_is_about_what_is_expected(precision):
    config, optim = GPTConfig.gpt2("124m", n_layer=4, context_length=512, dropout=0.1), OptimConfig()
    costs = step_costs(config, 8, precision, "cuda")
    expected = expected_memory(Parameters.of(config, optim), costs, precision, "cuda").peak
    assert expected == pytest.approx(measure_steps(config, optim, 8, precision, "cuda").peak, rel=0.25)


def test_sizes_and_times_are_read_easily():
    assert [in_bytes(n) for n in (12, 28_937_728, 999_600, 3.2e12)] == ["12 bytes", "28.9 MB", "1 MB", "3.2 TB"]
    assert [in_time(s) for s in (0.21, 9.96, 80, 60, 3_600, 3_659.9, 90_000)] == [
        "0.21 s", "10 s", "1 min 20 s", "1 min", "1 h", "1 h 1 min", "1 d 1 h",
    ]  # fmt: skip


@pytest.mark.parametrize("vocab_size", [60, LARGE_VOCABULARY])
def test_a_head_that_sees_supervised_tokens_alone_costs_less(vocab_size):
    config = EncoderConfig(**{**SMALL, "vocab_size": vocab_size}, dropout=0.0)
    whole, masked = (step_costs(config, 8, "32-true", "cpu", supervised) for supervised in (1.0, 0.25))
    N = 8 * config.context_length
    spared = 0.75 * N * 6 * (config.n_embd * vocab_size + config.n_embd**2)  # the output layer and the one before
    assert whole.flops - masked.flops == pytest.approx(spared, rel=0.01)
    assert masked.forward_peak < whole.forward_peak


LORA = LoRAConfig(rank=4, modules=("qkv", "projection", "expand"))


@pytest.mark.parametrize(
    "trained",
    [
        Trained("head"),
        Trained("last_block"),
        Trained(lora=LORA),
        Trained(["lora", "head"], LORA),
        Trained(lora=dataclasses.replace(LORA, base_precision="bfloat16")),
    ],
    ids=str,
)
@pytest.mark.parametrize("vocab_size", [60, LARGE_VOCABULARY])
def test_frozen_parameters_need_no_gradients_and_no_moments(trained, vocab_size):
    config, optim = GPTConfig(**{**SMALL, "vocab_size": vocab_size}), OptimConfig()
    parameters = Parameters.of(config, optim, trained)
    model = trained_network(config, trained)
    assert parameters.total == model.n_parameters
    optimizer = build_optimizer(model, optim)
    ids = torch.zeros(1, 4, dtype=torch.int64)
    head_loss(model.output_layer, model.hidden_states(ids), ids).loss.backward()
    optimizer.step()
    held = sum(value.nbytes for state in optimizer.state.values() for value in state.values() if value.ndim > 0)
    costs = step_costs(config, 1, "32-true", "cpu", trained=trained)
    memory = expected_memory(parameters, costs, "32-true", "cpu")
    assert memory.optimizer == held
    assert memory.gradients == sum(p.grad.nbytes for p in model.parameters() if p.grad is not None) > 0
    assert memory.weights == sum(p.nbytes for p in model.parameters())
    assert costs.flops < step_costs(config, 1, "32-true", "cpu").flops
    assert measure_steps(config, optim, 1, "32-true", "cpu", trained=trained).seconds > 0
