"""Options of Llama's descendants: gated perceptron, windows, scaled angles, norms of queries and keys."""

from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from llama import CLOSE, config_of, ids_of
from models import make
from torch import nn

from llm.config import EncoderConfig, GPTConfig, RopeScaling, TransformerConfig
from llm.errors import ConfigError
from llm.model import GPT
from llm.model.attention import build_attention
from llm.model.block import Block

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
