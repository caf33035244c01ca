"""Low-rank adapters."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from llm.config import EncoderConfig, GPTConfig, LoRAConfig
from llm.errors import ConfigError
from llm.model import GPT, build_network
from llm.model.cross_attention import CrossAttention
from llm.model.lora import LoRALinear, add_lora, lora_layers, merged
from llm.model.trained import Trained

TINY = GPTConfig(vocab_size=50, context_length=8, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
EVERYWHERE = ("qkv", "projection", "expand")


def ids() -> Tensor:
    return torch.randint(50, (2, 8), generator=torch.Generator().manual_seed(1))


def stir(network: nn.Module, std: float = 0.1) -> None:
    """As if the adapters had been trained."""
    torch.manual_seed(2)
    for _, layer in lora_layers(network):
        nn.init.normal_(layer.lora_b, std=std)


@pytest.mark.parametrize("config", [TINY, EncoderConfig(vocab_size=50, context_length=8, n_head=2, n_embd=16)])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_first_logits_are_those_of_the_base(config: GPTConfig, autocast: bool) -> None:
    network = build_network(config).eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        before = network(ids())
        add_lora(network, LoRAConfig(rank=3, modules=EVERYWHERE))
        assert torch.equal(network(ids()), before)


@given(st.integers(1, 6), st.floats(0.5, 64), st.booleans())
def test_the_layer_computes_its_formula(rank: int, alpha: float, bias: bool) -> None:
    base = nn.Linear(5, 7, bias=bias).double()
    layer = LoRALinear(base, LoRAConfig(rank=rank, alpha=alpha))
    nn.init.normal_(layer.lora_b)
    x = torch.randn(2, 3, 5, dtype=torch.float64)
    A, B = layer.lora_a, layer.lora_b
    torch.testing.assert_close(layer(x), base(x) + alpha / rank * x @ (B @ A).T)


def test_the_keys_of_the_base_stay_and_its_tensors_too() -> None:
    network = GPT(TINY)
    before = network.state_dict(keep_vars=True)
    add_lora(network, LoRAConfig(rank=2, modules=("qkv",)))
    after = network.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in before.items())
    added = {f"blocks.{n}.attention.qkv.lora_{matrix}" for n in (0, 1) for matrix in "ab"}
    assert after.keys() - before.keys() == added


@pytest.mark.parametrize(
    ("modules", "chosen"),
    [
        (("qkv",), ["blocks.0.attention.qkv", "blocks.1.attention.qkv"]),
        (("blocks.1.*",), [f"blocks.1.{name}" for name in ("attention.qkv", "attention.projection", "mlp.expand")]),
        (("blocks.0.mlp.expand", "expand"), ["blocks.0.mlp.expand", "blocks.1.mlp.expand"]),
    ],
)
def test_modules_are_named_by_their_last_part_or_by_a_pattern(modules: tuple[str, ...], chosen: list[str]) -> None:
    network = GPT(TINY)
    add_lora(network, LoRAConfig(rank=2, modules=modules))
    found = [name for name, _ in lora_layers(network) if name != "blocks.1.mlp.projection"]
    assert found == chosen


def test_a_name_of_no_layer_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'qvk', did you mean 'qkv'\? there are qkv, projection, expand"):
        add_lora(GPT(TINY), LoRAConfig(rank=2, modules=("qvk",)))
    with pytest.raises(ConfigError, match="no linear layer 'head'"):  # its loss never makes all logits
        add_lora(GPT(TINY), LoRAConfig(rank=2, modules=("head",)))


@pytest.mark.parametrize(
    "wrong", [{"rank": -1}, {"alpha": 0.0}, {"modules": ()}, {"adapter_only": True}, {"base_precision": "int4"}]
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LoRAConfig(**wrong)  # type: ignore[arg-type]


def test_merged_equals_unmerged() -> None:
    network, plain, lora = GPT(TINY).eval(), GPT(TINY).eval(), LoRAConfig(rank=4, alpha=16, modules=EVERYWHERE)
    add_lora(network, lora)
    stir(network)
    plain.load_state_dict(merged(network.state_dict(), lora, TINY.vocab_size))
    torch.testing.assert_close(plain(ids()), network(ids()), rtol=0, atol=1e-5)


def test_cross_attention_sees_the_adapter() -> None:
    attention, plain, lora = (
        CrossAttention(TINY),
        CrossAttention(TINY),
        LoRAConfig(rank=2, modules=("query", "key_value")),
    )
    add_lora(attention, lora)
    stir(attention)
    plain.load_state_dict(merged(attention.state_dict(), lora, TINY.vocab_size))
    x, memory = torch.randn(1, 3, 16), torch.randn(1, 5, 16)
    torch.testing.assert_close(attention(x, memory=memory), plain(x, memory=memory))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_it_compiles_without_a_break(precision: Literal["float32", "bfloat16"]) -> None:
    network = GPT(TINY)
    add_lora(network, LoRAConfig(rank=2, base_precision=precision))
    stir(network)
    compiled = torch.compile(network.hidden_states, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids()), network.hidden_states(ids()))
    compiled(ids()).square().sum().backward()
    assert all(layer.lora_a.grad is not None and layer.lora_a.grad.any() for _, layer in lora_layers(network))


def gradients(network: GPT, of: Callable[[str], bool]) -> dict[str, Tensor]:
    network.zero_grad()
    network(ids()).square().mean().backward()
    return {name: p.grad for name, p in network.named_parameters() if of(name) and p.grad is not None}


def test_a_base_in_bfloat16_is_rounded_once_and_computes_in_the_input_s_precision() -> None:
    network = GPT(TINY)
    add_lora(network, LoRAConfig(rank=2, modules=EVERYWHERE, base_precision="bfloat16"))
    stir(network)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_("lora_" in name)
    rounded = copy.deepcopy(network)
    for _, layer in lora_layers(rounded):
        layer.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    assert network.blocks[0].attention.qkv.weight.dtype == torch.bfloat16  # type: ignore[union-attr]
    assert torch.equal(network(ids()), rounded(ids()))
    ours, theirs = (gradients(part, lambda name: "lora_" in name) for part in (network, rounded))
    assert len(ours) == 16
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name])


def test_biases_beside_a_base_in_bfloat16_are_trained() -> None:
    network = GPT(TINY)
    trained = Trained(["lora", "*.bias"], LoRAConfig(rank=2, modules=EVERYWHERE, base_precision="bfloat16"))
    trained.apply_to(network)
    stir(network)
    whole = copy.deepcopy(network)
    for _, layer in lora_layers(whole):
        layer.weight = nn.Parameter(layer.weight.float(), requires_grad=False)
    ours, theirs = (gradients(part, lambda name: name.endswith("bias")) for part in (network, whole))
    assert len(ours) == sum(name.endswith("bias") for name, _ in network.named_parameters())
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name])


@pytest.mark.parametrize("train", ["all", ["lora", "blocks.0.*"]])
def test_a_base_in_bfloat16_stays_frozen(train: list[str] | str) -> None:
    trained = Trained(train, LoRAConfig(rank=2, base_precision="bfloat16"))
    with pytest.raises(ConfigError, match=r"names blocks\.0\.attention\.qkv\.weight"):
        trained.apply_to(GPT(TINY))
