"""Options of Llama's descendants: gated perceptron, windows, scaled angles, norms of queries and keys."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from models import make
from torch import nn

from llm.config import EncoderConfig, GPTConfig, OptimConfig, RopeScaling, SamplingConfig, TransformerConfig
from llm.errors import ConfigError
from llm.generation import generate_batch
from llm.generation.compiled import CompiledStep
from llm.inspection import capture
from llm.model import GPT, KeyValueCache, decode, prefill
from llm.model.attention import build_attention
from llm.model.block import Block
from llm.preflight.costs import step_costs
from llm.training.optimizer import muon_groups

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
LLAMA = {
    "vocab_size": 31,
    "context_length": 24,
    "n_layer": 3,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 16,
    "head_size": 6,
    "mlp_hidden": 20,
    "mlp": "gated",
    "activation": "silu",
    "norm": "rms_norm",
    "positions": "rotary",
    "bias": False,
    "qkv_bias": False,
    "dropout": 0.0,
}
OPTIONS = [
    {},
    {"sliding_window": 4},
    {"sliding_window": 4, "full_attention_layers": (1,)},
    {"qk_norm": True, "qk_gain": "separate"},
    {"qkv_bias": True, "tie_head": False},
    {"rope_theta": 5e5, "rope_scaling": RopeScaling("llama3", 4.0, 16)},
    {"rope_scaling": RopeScaling("yarn", 4.0, 12)},
    {"qk_norm": True, "qk_gain": "separate", "sliding_window": 3, "rope_scaling": RopeScaling("linear", 2.0)},
    {"parallel_residual": True, "partial_rotary_factor": 0.34, "norm": "layer_norm", "mlp": "plain", "bias": True},
    {"norm": "zero_centered_rms_norm", "scale_embeddings": True, "sandwich_norm": True},
    {"attention_softcap": 0.5, "logit_softcap": 2.0, "sliding_window": 4, "full_attention_layers": (1,)},
]


def config_of(**options):
    return GPTConfig(**(LLAMA | options))


def ids_of(rows, length):
    return torch.randint(31, (rows, length), generator=torch.Generator().manual_seed(2))


# A window


def test_a_query_sees_itself_and_what_is_just_before_it():
    config = config_of(sliding_window=3, full_attention_layers=(1,))
    weights = build_attention(config).weights(torch.zeros(1, 1, 5, 5))
    expected = [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert (weights[0, 0] > 0).int().tolist() == expected
    everything = build_attention(config, layer=1).weights(torch.zeros(1, 1, 5, 5))
    assert torch.equal(everything[0, 0] > 0, torch.ones(5, 5).tril().bool())


@given(seed=st.integers(0, 100), window=st.integers(1, 9), T=st.integers(1, 9), grouped=st.booleans())
def test_fused_attention_is_the_one_spelled_out(seed, window, T, grouped):
    torch.manual_seed(seed)
    attention = build_attention(config_of(sliding_window=window, n_kv_head=2 if grouped else 4)).eval()
    x = torch.randn(2, T, 16)
    stages = {stage.name: stage.tensor for stage in attention.spelled_out(x)}
    torch.testing.assert_close(attention(x), attention.output(stages["context"]), **CLOSE)
    assert int((stages["weights"] > 0).sum(-1).max()) <= window


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_move_the_window(side):
    model = make(config_of(sliding_window=3))
    ids = ids_of(2, 10)
    lengths = torch.tensor([10, 6])
    alone = model(ids[1:, :6])[0]
    padded = ids.clone()
    if side == "left":
        padded[1] = ids[1].roll(4)
    found = model(padded, lengths, side)[1]
    torch.testing.assert_close(found[:6] if side == "right" else found[4:], alone, **CLOSE)


# Everything with everything


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_cache_gives_the_logits_of_the_whole_model(options):
    model, ids = make(config_of(**options)), ids_of(2, 20)
    whole = model(ids)
    cache, lengths = KeyValueCache(model, 2, 24), torch.tensor([7, 2])
    first = prefill(model, cache, ids[:, :7], lengths)
    torch.testing.assert_close(first, whole[torch.arange(2), lengths - 1], **CLOSE)
    for step in range(5):  # two tokens at a time
        positions = lengths[:, None] + 2 * step + torch.arange(2)
        logits = decode(model, cache, ids.gather(1, positions), positions)
        torch.testing.assert_close(logits, whole.gather(1, positions[..., None].expand_as(logits)), **CLOSE)


@pytest.mark.parametrize("options", [*OPTIONS[2:4], *OPTIONS[8:]], ids=str)
def test_rows_as_the_compiled_step_has_them(options, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = make(config_of(**options))
    plain, other = KeyValueCache(model, 2, 16), KeyValueCache(model, 2, 16)
    step = CompiledStep(model, 2)
    for position in range(9):
        ids, positions = ids_of(2, 9)[:, position, None], torch.full((2, 1), position)
        expected = decode(model, plain, ids, positions)
        torch.testing.assert_close(step(model, other, ids, positions), expected, **CLOSE)


@pytest.mark.slow
def test_compiled_text_is_the_plain_one():
    options = {"qk_norm": True, "qk_gain": "separate", "sliding_window": 3, "full_attention_layers": (1,)}
    options |= {"logit_softcap": 1.0, "attention_softcap": 1.0, "sandwich_norm": True, "partial_rotary_factor": 0.67}
    model, prompts = make(config_of(context_length=64, **options)), [ids_of(1, 5)[0], ids_of(2, 3)[1]]
    torch.compiler.reset()
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=20, compile="never")
    expected = generate_batch(model, prompts, sampling)
    assert generate_batch(model, prompts, replace(sampling, compile="always")) == expected


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_stages_and_their_parameters(options):
    model = make(config_of(**options))
    stages = capture(model, ids_of(1, 9))
    assert sum(stage.parameters for stage in stages.values()) == model.n_parameters
    assert stages["block 0 / K"].tensor.shape == (1, 2, 9, 6)
    seen = (stages["block 2 / weights"].tensor > 0).sum(-1).max()
    assert int(seen) == (options.get("sliding_window") or 9)


def test_muon_has_the_gate_and_adamw_the_gains():
    config = config_of(qk_norm=True, qk_gain="separate")
    model = GPT(config)
    groups = muon_groups(model, OptimConfig(kind="muon"))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    taken = {names[id(parameter)]: group["matrices"] for group in groups for parameter in group["params"]}
    assert taken["blocks.0.mlp.gate.weight"] == 1
    assert taken["blocks.0.attention.qkv.weight"] == [24, 12, 12]
    assert not any("norm" in name for name in taken)


def test_the_gated_perceptron_costs_a_third_matrix():
    gated, plain = (step_costs(config_of(mlp=mlp), 2, "32-true", "cpu").flops for mlp in ("gated", "plain"))
    assert gated - plain == 3 * 2 * 2 * 24 * 3 * 16 * 20  # forward and twice backward, B T, layers, C x hidden


def test_a_model_learns_with_all_of_it():
    torch.manual_seed(0)
    model = GPT(config_of(**OPTIONS[7]))
    ids = ids_of(4, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


# Formulas


def test_the_gate_goes_through_the_activation_and_the_other_does_not():
    mlp = Block(config_of()).mlp
    x = torch.randn(5, 16)
    expected = nn.functional.silu(x @ mlp.gate.weight.T) * (x @ mlp.expand.weight.T) @ mlp.projection.weight.T
    torch.testing.assert_close(mlp(x), expected)


def test_parallel_parts_both_read_the_input():
    block, x = Block(config_of(parallel_residual=True)).eval(), torch.randn(2, 5, 16)
    expected = x + block.attention(block.attention_norm(x)) + block.mlp(block.mlp_norm(x))
    torch.testing.assert_close(block(x), expected)
    names = [hook.name for hook in block.stages("b")]
    assert "b / residual after attention" not in names


def test_sandwiched_parts_are_normalized_before_they_are_added():
    block, x = Block(config_of(sandwich_norm=True, norm="zero_centered_rms_norm")).eval(), torch.randn(2, 5, 16)
    nn.init.normal_(block.attention_out_norm.weight)

    def norm(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * (1 + weight)

    middle = x + norm(block.attention(block.attention_norm(x)), block.attention_out_norm.weight)
    torch.testing.assert_close(block(x), middle + norm(block.mlp(norm(middle, 0)), 0))


def test_only_the_first_values_of_a_head_are_rotated():
    config = config_of(partial_rotary_factor=0.34, qkv_bias=False)
    assert config.rotary_dim == 2
    whole, x = build_attention(config_of(head_size=2)).rotary, torch.randn(1, 5, 4, 6)
    rotated = build_attention(config).rotary(x)
    torch.testing.assert_close(rotated[..., :2], whole(x[..., :2]))
    assert torch.equal(rotated[..., 2:], x[..., 2:])


def test_capped_scores_and_logits_and_scaled_embeddings():
    attention, x = build_attention(config_of(attention_softcap=0.1)).eval(), 9 * torch.randn(2, 5, 16)
    stages = {stage.name: stage.tensor for stage in attention.spelled_out(x)}
    assert 0.09 < stages["scores"].abs().max() <= 0.1
    torch.testing.assert_close(attention(x), attention.output(stages["context"]), **CLOSE)
    plain, capped = (make(config_of(logit_softcap=cap)) for cap in (None, 0.01))
    logits = plain(ids_of(1, 9))
    torch.testing.assert_close(capped(ids_of(1, 9)), 0.01 * (logits / 0.01).tanh(), **CLOSE)
    scaled = make(config_of(scale_embeddings=True)).embeddings(ids_of(1, 9))
    torch.testing.assert_close(scaled, 4 * plain.embeddings(ids_of(1, 9)), **CLOSE)


def test_a_translator_has_no_place_for_some():
    for name in ("parallel_residual", "sandwich_norm"):
        with pytest.raises(ConfigError, match=f"{name} is for blocks without attention to a source"):
            TransformerConfig(**{name: True})


def test_one_table_of_angles_for_all_layers():
    model = GPT(config_of())
    assert len({block.attention.rotary for block in model.blocks}) == 1
    assert not any("rotary" in name for name in model.state_dict())


# Configuration


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"sliding_window": 0}, "sliding_window must be at least 1"),
        ({"sliding_window": 4, "causal": False}, "sliding_window 4 needs a causal attention"),
        ({"full_attention_layers": (1,)}, r"full_attention_layers \[1\] needs sliding_window"),
        ({"sliding_window": 4, "full_attention_layers": (-1,)}, "must be numbers of layers, counted from 0"),
        ({"qk_gain": "separate"}, "qk_gain separate needs qk_norm true"),
        ({"rope_theta": 0.5}, "rope_theta must be above 1"),
        ({"positions": "learned", "rope_scaling": RopeScaling("linear", 2.0)}, "linear needs positions rotary"),
        ({"rope_scaling": 3}, "rope_scaling must be settings by name, got 3"),
        ({"partial_rotary_factor": 0.0}, "partial_rotary_factor must be above 0 and at most 1, got 0.0"),
        ({"partial_rotary_factor": 0.5}, "head_size = 6 times 0.5"),
        ({"partial_rotary_factor": 0.5, "positions": "learned"}, "partial_rotary_factor 0.5 needs positions rotary"),
        ({"attention_softcap": 0.0}, "attention_softcap must be above 0"),
        ({"logit_softcap": -1.0}, "logit_softcap must be above 0"),
        ({"sandwich_norm": True, "norm_first": False}, "sandwich_norm needs norm_first"),
        ({"parallel_residual": True, "mlp": "none"}, "parallel_residual needs residual, norm_first and an mlp"),
        ({"mlp": "moe"}, "mlp must be one of plain, gated, none"),
    ],
    ids=str,
)
def test_what_does_not_go_together(options, reason):
    with pytest.raises(ConfigError, match=reason):
        config_of(**options)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"kind": "dynamic"}, "kind must be one of none, linear, llama3, yarn"),
        ({"kind": "llama3", "factor": 8.0}, "llama3 needs original_context"),
        ({"kind": "linear", "factor": 0.5}, "factor must be at least 1"),
        ({"low_frequency": 4.0}, "low_frequency must be above 0 and below high_frequency"),
        ({"slow": 40.0}, "slow must be above 0 and below fast"),
        ({"length": 0.0}, "length must be above 0"),
    ],
    ids=str,
)
def test_scaling_that_can_not_be(options, reason):
    with pytest.raises(ConfigError, match=reason):
        RopeScaling(**options)


def test_a_configuration_as_primitives_and_back():
    config = config_of(sliding_window=4, full_attention_layers=(0, 2), rope_scaling=RopeScaling("yarn", 2.0, 8))
    stated = config.to_dict()
    assert stated["full_attention_layers"] == [0, 2]
    assert stated["rope_scaling"]["kind"] == "yarn"
    assert GPTConfig(**stated) == config
    assert EncoderConfig(**GPTConfig().to_dict() | {"causal": False}).rope_scaling.kind == "none"


@pytest.mark.parametrize(
    ("name", "vocab_size", "n_parameters"),
    [
        ("smollm2-135m", 49152, 134_515_008),
        ("llama-3.2-1b", 128256, 1_235_814_400),
        ("qwen3-0.6b", 151936, 596_049_920),
    ],
)
def test_the_shipped_configurations_have_the_published_sizes(name, vocab_size, n_parameters):
    settings = yaml.safe_load((Path(__file__).parents[2] / f"configs/llama/{name}.yaml").read_text())
    assert settings["data"]["tokenizer"]["vocab_size"] == vocab_size
    with torch.device("meta"):
        model = GPT(GPTConfig(vocab_size=vocab_size, context_length=8, **settings["model"]["gpt"]))
    assert model.n_parameters == n_parameters
