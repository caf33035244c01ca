"""Each option of Llama's descendants with all that the package does with a network."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from llama import CLOSE, config_of, ids_of
from models import make
from torch import Tensor, nn

from llm.config import LoRAConfig, OptimConfig, RopeScaling, SamplingConfig
from llm.generation import generate_batch
from llm.generation.compiled import CompiledStep
from llm.inspection import capture
from llm.inspection.probe import attention_maps
from llm.model import GPT, KeyValueCache, decode, prefill
from llm.model.lora import lora_layers, merged
from llm.model.trained import Trained
from llm.preflight.costs import step_costs
from llm.preflight.memory import Parameters
from llm.training.muon import orthogonalize
from llm.training.optimizer import build_optimizer

OPTIONS: list[dict[str, Any]] = [
    {},
    {"n_kv_head": 4, "head_size": None, "activation": "gelu", "tie_head": False},
    {"n_kv_head": 1, "head_size": 10, "rope_theta": 50.0},
    {"sliding_window": 4},
    {"sliding_window": 4, "full_attention_layers": (1,)},
    {"qk_norm": True, "qk_gain": "separate"},
    {"qkv_bias": True, "tie_head": False},
    {"rope_scaling": RopeScaling("linear", 2.0)},
    {"rope_theta": 5e5, "rope_scaling": RopeScaling("llama3", 4.0, 16)},
    {"rope_scaling": RopeScaling("yarn", 4.0, 12)},
    {"qk_norm": True, "qk_gain": "separate", "sliding_window": 3, "rope_scaling": RopeScaling("linear", 2.0)},
    {"parallel_residual": True, "partial_rotary_factor": 0.34, "norm": "layer_norm", "mlp": "plain", "bias": True},
    {"norm": "zero_centered_rms_norm", "scale_embeddings": True, "sandwich_norm": True},
    {"attention_softcap": 0.5, "logit_softcap": 2.0, "sliding_window": 4, "full_attention_layers": (1,)},
]
each = pytest.mark.parametrize("options", OPTIONS, ids=str)


def loss_of(model: GPT) -> Tensor:
    ids = ids_of(4, 13)
    return nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@each
def test_the_cache_gives_the_logits_of_the_whole_model(options: dict[str, Any]) -> None:
    model, ids = make(config_of(**options)), ids_of(2, 20)
    whole = model(ids)
    cache, lengths = KeyValueCache(model, 2, 24), torch.tensor([7, 2])
    first = prefill(model, cache, ids[:, :7], lengths)
    torch.testing.assert_close(first, whole[torch.arange(2), lengths - 1], **CLOSE)
    for step in range(5):  # two tokens at a time
        positions = lengths[:, None] + 2 * step + torch.arange(2)
        logits = decode(model, cache, ids.gather(1, positions), positions)
        torch.testing.assert_close(logits, whole.gather(1, positions[..., None].expand_as(logits)), **CLOSE)


COMBINED: list[dict[str, Any]] = [
    {"n_kv_head": 1, "head_size": 10, "activation": "gelu", "tie_head": False, **OPTIONS[7], "qkv_bias": True},
    {**OPTIONS[4], **OPTIONS[5], **OPTIONS[8]},
    {**OPTIONS[9], **OPTIONS[11], "head_size": 6},
    {**OPTIONS[12], **OPTIONS[13], "full_attention_layers": ()},
]


@pytest.mark.parametrize("options", COMBINED, ids=str)
def test_the_compiled_step_has_the_logits_of_the_whole_model(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as it is compiled, in one graph, but run as torch has it, which takes no seconds."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    torch.compiler.reset()
    model, ids = make(config_of(**options)), ids_of(2, 9)
    step, cache, whole = CompiledStep(model, 2), KeyValueCache(model, 2, 16), model(ids)
    for position in range(9):
        logits = step(model, cache, ids[:, position, None], torch.full((2, 1), position))
        torch.testing.assert_close(logits[:, 0], whole[:, position], **CLOSE)
    assert step.is_compiled


@pytest.mark.slow
def test_compiled_text_is_the_plain_one(caplog: pytest.LogCaptureFixture) -> None:
    options = {"qk_norm": True, "qk_gain": "separate", "sliding_window": 3, "full_attention_layers": (1,)}
    options |= {"logit_softcap": 1.0, "attention_softcap": 1.0, "sandwich_norm": True, "partial_rotary_factor": 0.67}
    options |= {"qkv_bias": True, "tie_head": False, "scale_embeddings": True, "norm": "zero_centered_rms_norm"}
    options |= {"rope_theta": 500.0, "rope_scaling": RopeScaling("llama3", 4.0, 16)}
    model, prompts = make(config_of(context_length=64, **options)), [ids_of(1, 5)[0], ids_of(2, 3)[1]]
    torch.compiler.reset()
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=20, compile="never")
    expected = generate_batch(model, prompts, sampling)
    with caplog.at_level(logging.WARNING):
        assert generate_batch(model, prompts, replace(sampling, compile="always")) == expected
    assert not caplog.messages, "it was compiled"


@each
def test_what_is_seen_is_what_the_fused_attention_computed(options: dict[str, Any]) -> None:
    model, ids = make(config_of(**options)), ids_of(2, 9)
    stages = capture(model, ids)
    torch.testing.assert_close(stages.tensor("logits"), model(ids))
    assert sum(stage.parameters for stage in stages.values()) == model.n_parameters
    for layer, (block, its_map) in enumerate(zip(model.blocks, attention_maps(model, ids), strict=True)):
        attention, weights = block.attention, stages.attention(layer)
        torch.testing.assert_close(weights, its_map, **CLOSE)
        query, key, value = (stages.tensor(f"block {layer} / {name}") for name in "QKV")
        assert key.shape == (2, model.config.kv_heads, 9, model.config.head_dim)
        torch.testing.assert_close(attention.mix(weights, value), attention.context(query, key, value), **CLOSE)
        out = attention.output(attention.mix(weights, value))
        torch.testing.assert_close(out, stages.tensor(f"block {layer} / attention out"), **CLOSE)
        window = 9 if layer in options.get("full_attention_layers", ()) else options.get("sliding_window", 9)
        assert int((weights > 0).sum(-1).max()) == window


@each
def test_a_step_of_muon(options: dict[str, Any]) -> None:
    """Each matrix of a block along its orthogonalized gradient, Wq, Wk and Wv apart; all else as AdamW moves it."""
    config = config_of(**options)
    torch.manual_seed(0)
    model = GPT(config)
    optim = OptimConfig(kind="muon", learning_rate=0.01, muon_learning_rate=0.05, weight_decay=0.0)
    optimizer = build_optimizer(model, optim)
    loss_of(model).backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
    for parameter in model.parameters():  # no direction too faint to be found
        nn.init.normal_(parameter.grad)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer.step()
    H, K, D = config.heads, config.kv_heads, config.head_dim
    for name, parameter in model.named_parameters():
        step, gradient = before[name] - parameter.detach(), parameter.grad
        if name.startswith("blocks.") and parameter.ndim == 2:
            rows = [H * D, K * D, K * D] if "qkv" in name else len(parameter)
            for moved, part in zip(step.split(rows), gradient.split(rows), strict=True):
                tall, wide = len(part) > part.shape[1], part if len(part) <= part.shape[1] else part.mT
                expected = orthogonalize(wide[None])[0].float()
                expected = (expected.mT if tall else expected) * 0.05 * math.sqrt(max(1, len(part) / part.shape[1]))
                torch.testing.assert_close(moved, expected, atol=4e-3, rtol=0)
        else:  # its first step is the learning rate, whatever the gradient
            moved = step[gradient.abs() > 1e-3]
            torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.01), atol=1e-4, rtol=0)


@each
def test_adapters(options: dict[str, Any]) -> None:
    """At first the logits are the base's; then adapters alone move; merged, they are the same model."""
    config = config_of(**options)
    layers = ("qkv", "projection", "expand", "gate") if config.mlp == "gated" else ("qkv", "projection", "expand")
    lora = LoRAConfig(rank=2, modules=layers)
    model, ids = make(config), ids_of(2, 9)
    first = model(ids)
    Trained(lora=lora).apply_to(model.requires_grad_(True))
    assert torch.equal(model(ids), first)
    optimizer = build_optimizer(model, OptimConfig(learning_rate=0.05))
    frozen = {name: parameter.detach().clone() for name, parameter in model.named_parameters() if "lora_" not in name}
    before = loss_of(model)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert loss_of(model) < before
    assert len(list(lora_layers(model))) == config.n_layer * (len(layers) + 1)  # two are named projection
    assert all(layer.lora_a.grad.abs().max() > 0 for _, layer in lora_layers(model))
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in frozen.items())
    plain = make(config)
    plain.load_state_dict(merged(state, lora, config.vocab_size))
    torch.testing.assert_close(plain(ids), model(ids), **CLOSE)


@each
def test_the_preflight_counts_what_there_is(options: dict[str, Any]) -> None:
    config = config_of(**options)
    found, model = Parameters.of(config, OptimConfig(kind="muon")), GPT(config)
    assert found.total == model.n_parameters
    matrices = [parameter for parameter in model.blocks.parameters() if parameter.ndim == 2]
    assert found.muon == sum(parameter.numel() for parameter in matrices)
    C, V, T = config.n_embd, config.vocab_size, config.context_length
    scores = config.n_layer * 2 * config.heads * config.head_dim * T  # queries times keys, weights times values
    flops = 3 * 2 * 2 * T * (sum(parameter.numel() for parameter in matrices) + scores + V * C)
    assert step_costs(config, 2, "32-true", "cpu").flops == flops


def test_the_gated_perceptron_costs_a_third_matrix() -> None:
    gated, plain = (step_costs(config_of(mlp=mlp), 2, "32-true", "cpu").flops for mlp in ("gated", "plain"))
    assert gated - plain == 3 * 2 * 2 * 24 * 3 * 16 * 20  # forward and twice backward, B T, layers, C x hidden


def test_a_model_learns_with_all_of_it() -> None:
    torch.manual_seed(0)
    model = GPT(config_of(**OPTIONS[10]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = loss_of(model)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())
