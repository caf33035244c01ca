"""The choices beyond GPT-2: each against a reference or a law, and with the cache, inspection and pretrained files."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import make
from torch import nn

from llm.config import GPTConfig
from llm.errors import ConfigError
from llm.inspection import capture
from llm.model import GPT, KeyValueCache, SquaredReLU, decode, prefill
from llm.model.attention import build_attention
from llm.model.rotary import Rotary
from llm.pretrained import Pretrained, adapt, build, export, read_pretrained

MODERN = {
    "positions": "rotary",
    "qk_norm": True,
    "norm": "rms_norm",
    "activation": "squared_relu",
    "bias": False,
    "qkv_bias": False,
    "projection_init": "zero",
}
ONE_BY_ONE = [{name: value} for name, value in MODERN.items()] + [MODERN]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


# Rotary positions


def attention_of(seed=0, **options):
    torch.manual_seed(seed)
    attention = build_attention(GPTConfig(n_embd=24, n_head=3, context_length=64, **options)).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attention


def test_queries_and_keys_are_rotated_as_llama_turns_them():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    config = LlamaConfig(hidden_size=24, num_attention_heads=3, max_position_embeddings=64)
    x, positions = torch.randn(2, 7, 24), torch.arange(7)[None]
    cos, sin = llama.LlamaRotaryEmbedding(config)(x, positions)
    query, key, value = attention_of().project(x)
    theirs = llama.apply_rotary_pos_emb(query, key, cos, sin)
    ours = attention_of(positions="rotary").project(x)
    for our, their in zip(ours, (*theirs, value), strict=True):
        torch.testing.assert_close(our, their, **CLOSE)


@given(seed=st.integers(0, 1000), moved=st.integers(0, 50), qk_norm=st.booleans())
def test_scores_depend_on_the_distance_alone(seed, moved, qk_norm):
    attention = attention_of(seed, positions="rotary", qk_norm=qk_norm).double()
    attention.rotary = Rotary(GPTConfig(context_length=64, head_size=8)).double()
    x = torch.randn(2, 6, 24, dtype=torch.float64)
    first, second = (
        attention.scores(*attention.project(x, positions)[:2]) for positions in (None, torch.arange(6) + moved)
    )
    torch.testing.assert_close(second, first, atol=1e-5, rtol=1e-5)


def test_order_matters_to_rotary_positions_and_not_without_any():
    x = torch.randn(1, 1, 24).expand(1, 6, 24)  # the same input everywhere: only positions tell keys apart
    for positions, differ in (("learned", False), ("rotary", True)):
        attention = attention_of(positions=positions)
        scores = attention.scores(*attention.project(x)[:2])
        assert (scores.std(dim=-1).max() > 1e-3) == differ


def test_each_row_may_stand_elsewhere():
    attention = attention_of(positions="rotary")
    x, positions = torch.randn(2, 1, 24), torch.tensor([[3], [11]])
    both = attention.project(x, positions)
    for row in range(2):
        alone = attention.project(x[row : row + 1], positions[row])
        for together, single in zip(both, alone, strict=True):
            torch.testing.assert_close(together[row : row + 1], single)


def test_lengths_do_not_change_when_rotated():
    rotary, x = Rotary(GPTConfig(context_length=32, head_size=8)), torch.randn(3, 20, 8, 8)
    torch.testing.assert_close(rotary(x).norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(rotary(x)[:, 0], x[:, 0]), "position 0 is not rotated"


def test_rotary_positions_have_no_table_and_are_no_part_of_a_checkpoint(tiny):
    model = GPT(replace(tiny, positions="rotary"))
    assert model.embeddings.position is None
    assert set(model.state_dict()) == set(GPT(tiny).state_dict()) - {"embeddings.position.weight"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"positions": "rotary", "attention": "dot"}, "dot attention has one vector for all three"),
        ({"qk_norm": True, "attention": "dot"}, "dot attention has one vector for all three"),
        ({"positions": "rotary", "n_embd": 6, "n_head": 2}, "head size must be even, got n_embd / n_head = 3"),
        ({"projection_init": "zero", "residual": False}, "needs residual"),
        ({"positions": "absolute"}, "positions must be one of learned, rotary"),
        ({"projection_init": "one"}, "projection_init must be one of small, zero"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        GPTConfig(**settings)


# The other choices


def test_rms_norm_is_torchs(tiny):
    model = make(replace(tiny, norm="rms_norm", norm_epsilon=0.1))
    x = torch.randn(2, 5, 8)
    norm = model.blocks[0].attention_norm
    torch.testing.assert_close(norm(x), F.rms_norm(x, (8,), norm.weight, 0.1))
    torch.testing.assert_close(norm(x), x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * norm.weight)
    assert {name for name, _ in model.final_norm.named_parameters()} == {"weight"}


@pytest.mark.parametrize("positions", ["learned", "rotary"])
def test_normalized_scores_are_the_cosine_times_the_gain(positions):
    attention, x = attention_of(qk_norm=True, positions=positions), 100 * torch.randn(2, 7, 24)
    query, key, value = attention.project(x)
    cosine = F.cosine_similarity(query[..., :, None, :], key[..., None, :, :], dim=-1)
    attention.qk_gain.data.fill_(7.0)
    query, key, value = attention.project(x)
    torch.testing.assert_close(attention.scores(query, key).abs(), 7 * cosine.abs(), atol=1e-4, rtol=1e-4)
    assert torch.equal(value, attention.qkv(x)[..., 48:].view(2, 7, 3, 8).transpose(1, 2)), "values stay as they are"


def test_the_gain_begins_where_its_paper_says():
    gain = build_attention(GPTConfig(n_embd=8, n_head=2, context_length=64, qk_norm=True)).qk_gain
    assert gain.item() == pytest.approx(11.977, abs=1e-3)  # log2(64^2 - 64)


def test_squared_relu():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0])
    assert SquaredReLU()(x).tolist() == [0.0, 0.0, 0.0, 0.25, 9.0]


def test_a_model_with_zero_projections_begins_as_its_head_on_its_embeddings(tiny):
    torch.manual_seed(0)
    model = GPT(replace(tiny, projection_init="zero")).eval()
    ids = torch.randint(17, (2, 8))
    torch.testing.assert_close(model(ids), model.head(model.final_norm(model.embeddings(ids))))
    model(ids).sum().backward()
    assert model.blocks[0].mlp.projection.weight.grad.abs().max() > 0, "and it learns all the same"


# With everything else


@pytest.mark.parametrize("settings", ONE_BY_ONE, ids=str)
@pytest.mark.parametrize("attention", ["causal", "multi_head"])
def test_cached_logits_are_those_of_the_whole_model(tiny, attention, settings):
    model = make(replace(tiny, attention=attention, **settings))
    ids, lengths = torch.randint(17, (3, 8)), torch.tensor([1, 3, 5])
    whole, cache = model(ids), KeyValueCache(model, 3, 8)
    rows = torch.arange(3)
    torch.testing.assert_close(prefill(model, cache, ids[:, :5], lengths), whole[rows, lengths - 1], **CLOSE)
    for step in range(3):
        positions = lengths + step
        logits = decode(model, cache, ids[rows, positions][:, None], positions[:, None])[:, 0]
        torch.testing.assert_close(logits, whole[rows, positions], **CLOSE)


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["causal", "multi_head"]), t=st.integers(1, 7))
def test_later_tokens_do_not_change_earlier_logits(tiny, seed, kind, t):
    model = make(replace(tiny, attention=kind, **MODERN), seed)
    ids = torch.randint(17, (2, 8))
    changed = ids.clone()
    changed[:, t:] = (ids[:, t:] + torch.randint(1, 17, (2, 8 - t))) % 17
    torch.testing.assert_close(model(changed)[:, :t], model(ids)[:, :t], **CLOSE)
    assert not torch.allclose(model(changed)[:, t:], model(ids)[:, t:])


@pytest.mark.parametrize("settings", ONE_BY_ONE, ids=str)
def test_what_is_seen_is_what_was_computed(tiny, settings):
    model = make(replace(tiny, **settings))
    ids = torch.randint(17, (2, 6))
    found = capture(model, ids)
    assert ("positional embeddings" in found) == ("positions" not in settings)
    torch.testing.assert_close(found.tensor("logits"), model(ids))
    for layer, block in enumerate(model.blocks):
        weights, value = found.attention(layer), found.tensor(f"block {layer} / V")
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 6))
        query, key = found.tensor(f"block {layer} / Q"), found.tensor(f"block {layer} / K")
        torch.testing.assert_close(block.attention.context(query, key, value), weights @ value, **CLOSE)
        out = found.tensor(f"block {layer} / attention out")
        torch.testing.assert_close(block.attention.output(weights @ value), out, **CLOSE)


@pytest.mark.parametrize("settings", ONE_BY_ONE, ids=str)
def test_a_shared_file_is_the_whole_model(tiny, tmp_path, settings):
    model = make(replace(tiny, **settings))
    found = Pretrained("llm", model.config, model.state_dict())
    export(found, tmp_path / "model.safetensors", "safetensors")
    again = read_pretrained(tmp_path / "model.safetensors")
    assert again.config == model.config
    ids = torch.randint(17, (2, 8))
    assert torch.equal(build(again).eval()(ids), model(ids))
    shorter = build(adapt(again, replace(model.config, context_length=4, projection_init="small"))).eval()
    torch.testing.assert_close(shorter(ids[:, :4]), model(ids[:, :4]))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"positions": "rotary", "bias": False}, "positions is rotary"),
        ({"qk_norm": True}, "qk_norm is True"),
        ({"norm": "rms_norm"}, "norm is rms_norm"),
        ({"activation": "squared_relu", "bias": False}, "activation is squared_relu"),
        (
            MODERN,
            r"Llama's .*: mlp is plain \(gated there\), qk_norm is True \(False there\); use --format safetensors",
        ),
    ],
    ids=str,
)
def test_what_no_format_has_a_place_for_is_said(tiny, tmp_path, settings, reason):
    model = GPT(replace(tiny, **settings))
    with pytest.raises(ConfigError, match=reason):
        export(Pretrained("llm", model.config, model.state_dict()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_zero_projections_fit_into_gpt2s_format(tiny, tmp_path):
    model = GPT(replace(tiny, projection_init="zero"))
    export(Pretrained("llm", model.config, model.state_dict()), tmp_path / "out")
    assert read_pretrained(tmp_path / "out").config == tiny
