"""Grouped-query attention, and heads of a size of their own."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import make
from torch import nn

from llm.config import GPTConfig
from llm.inspection import attention_maps, capture, trace_shapes
from llm.inspection.shapes import legend
from llm.model import GPT, KeyValueCache, decode, prefill
from llm.model.attention import build_attention

GROUPED = {"n_head": 4, "n_kv_head": 2}
CLOSE = {"atol": 1e-5, "rtol": 1e-5}


def attention_of(seed=0, **settings):
    torch.manual_seed(seed)
    attention = build_attention(GPTConfig(**{"n_embd": 24, "context_length": 16, **settings})).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return attention


def by_hand(attention, x, is_causal):
    """Every query head with the keys and values of its group, one by one."""
    H, K, D = attention.n_head, attention.n_kv_head, attention.head_size
    q, k, v = attention.qkv(x).split([H * D, K * D, K * D], dim=-1)
    contexts = []
    for head in range(H):
        own, group = slice(head * D, (head + 1) * D), head // (H // K)
        shared = slice(group * D, (group + 1) * D)
        scores = q[..., own] @ k[..., shared].mT / math.sqrt(D)
        if is_causal:
            scores = scores.masked_fill(torch.ones(x.shape[1], x.shape[1]).triu(1).bool(), -math.inf)
        contexts.append(scores.softmax(-1) @ v[..., shared])
    return F.linear(torch.cat(contexts, -1), attention.projection.weight, attention.projection.bias)


@given(
    n_kv_head=st.sampled_from([1, 2, 3]),
    group=st.sampled_from([1, 2, 3]),
    head_size=st.sampled_from([None, 1, 5, 16]),
    causal=st.booleans(),
    T=st.integers(1, 6),
    seed=st.integers(0, 99),
)
def test_each_key_and_value_head_serves_its_group_of_query_heads(n_kv_head, group, head_size, causal, T, seed):
    n_head = n_kv_head * group
    sizes = {"n_embd": 2 * n_head} if head_size is None else {"n_embd": 7, "head_size": head_size}
    attention = attention_of(seed, n_head=n_head, n_kv_head=n_kv_head, causal=causal, **sizes)
    x = torch.randn(2, T, sizes["n_embd"])
    torch.testing.assert_close(attention(x), by_hand(attention, x, causal), **CLOSE)
    query, key, value = attention.project(x)
    weights = attention.weights(attention.scores(query, key))
    torch.testing.assert_close(attention.output(attention.mix(weights, value)), attention(x), **CLOSE)


@pytest.mark.parametrize("settings", [{}, {"head_size": 10}])
def test_it_is_llamas(settings):
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    from transformers import LlamaConfig

    attention = attention_of(**GROUPED, **settings, positions="rotary", bias=False, qkv_bias=False)
    H, K, D = 4, 2, attention.head_size
    config = LlamaConfig(
        hidden_size=24,
        num_attention_heads=H,
        num_key_value_heads=K,
        head_dim=D,
        max_position_embeddings=16,
        attn_implementation="eager",
    )
    theirs = llama.LlamaAttention(config, 0).eval()
    q, k, v = attention.qkv.weight.split([H * D, K * D, K * D])
    weights = {"q_proj": q, "k_proj": k, "v_proj": v, "o_proj": attention.projection.weight}
    theirs.load_state_dict({f"{name}.weight": weight for name, weight in weights.items()})
    x = torch.randn(2, 7, 24)
    rotation = llama.LlamaRotaryEmbedding(config)(x, torch.arange(7)[None])
    mask = torch.full((7, 7), -math.inf).triu(1)[None, None]
    torch.testing.assert_close(attention(x), theirs(x, rotation, mask)[0], **CLOSE)


def test_as_many_key_heads_as_query_heads_is_the_attention_without_groups(tiny):
    model = make(tiny)
    same = make(replace(tiny, n_kv_head=tiny.n_head, head_size=tiny.n_embd // tiny.n_head))
    ids = torch.randint(17, (2, 8))
    assert torch.equal(model(ids), same(ids))
    assert model.state_dict().keys() == same.state_dict().keys()


@pytest.mark.parametrize("settings", [{}, {"positions": "rotary", "qk_norm": True}, {"norm_first": False}], ids=str)
def test_the_cache_holds_the_key_and_value_heads_only(tiny, settings):
    model = make(replace(tiny, **GROUPED, head_size=6, **settings))
    ids, lengths, rows = torch.randint(17, (3, 8)), torch.tensor([1, 3, 5]), torch.arange(3)
    whole, cache = model(ids), KeyValueCache(model, 3, 8)
    assert {tensor.shape for tensor in cache.keys + cache.values} == {(3, 2, 8, 6)}
    torch.testing.assert_close(prefill(model, cache, ids[:, :5], lengths), whole[rows, lengths - 1], **CLOSE)
    for step in range(3):
        positions = lengths + step
        logits = decode(model, cache, ids[rows, positions][:, None], positions[:, None])[:, 0]
        torch.testing.assert_close(logits, whole[rows, positions], **CLOSE)


def test_the_probe_shows_every_query_head_and_each_key_head_once(tiny):
    config = replace(tiny, **GROUPED)
    model = make(config)
    ids = torch.randint(17, (2, 6))
    found = capture(model, ids, ids)
    assert found["block 0 / Q"].tensor.shape == (2, 4, 6, 2)
    for name in ("K", "V"):
        assert found[f"block 0 / {name}"].tensor.shape == (2, 2, 6, 2)
        assert found[f"block 0 / {name}"].axes == "(B, K, T, D)"
    assert found.attention(1).shape == (2, 4, 6, 6)
    for weights, maps in zip(found.maps(), attention_maps(model, ids), strict=True):
        assert torch.equal(weights, maps)
    torch.testing.assert_close(found.tensor("logits"), model(ids))
    assert "H = 4 (heads), K = 2 (key and value heads), D = 2 (head size)" in legend(config, 2)
    assert sum(row.parameters for row in trace_shapes(config, 2, 6)) == model.n_parameters


def test_fewer_key_heads_are_fewer_weights(tiny):
    attention = GPT(replace(tiny, **GROUPED, head_size=6)).blocks[0].attention
    assert attention.qkv.weight.shape == ((4 + 2 + 2) * 6, 8)
    assert attention.projection.weight.shape == (8, 4 * 6)
