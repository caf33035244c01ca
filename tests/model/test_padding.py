"""Padding never changes a result, and memory is looked at by its real positions only."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import make
from torch import nn

from llm.config import AttentionKind, GPTConfig
from llm.model import KeyValueCache, attention_mask, causal_mask, decode, is_real, prefill
from llm.model.attention import build_attention
from llm.model.cross_attention import build_cross_attention
from llm.model.padding import positions_of

KINDS = get_args(AttentionKind)
GROUPED = {"n_head": 4, "n_kv_head": 2, "head_size": 6, "n_embd": 10}
C = 12
CLOSE = {
    torch.float32: {"atol": 1e-5, "rtol": 1e-5},
    torch.bfloat16: {"atol": 6e-2, "rtol": 6e-2},
}
attentions = st.one_of(
    st.builds(lambda kind: {"attention": kind}, st.sampled_from(KINDS)),
    st.just({"attention": "multi_head", "causal": False}),
    st.just({"attention": "multi_head", "n_kv_head": 1}),
    st.just({"attention": "multi_head", "causal": False, "n_kv_head": 1, "head_size": 6}),
    st.just({"attention": "dot", "causal": True}),
    st.just({"attention": "causal", "positions": "rotary", "qk_norm": True}),
    st.just({"attention": "multi_head", "positions": "rotary", "n_kv_head": 1}),
)
lengths_of_texts = st.lists(st.integers(1, 7), min_size=1, max_size=4)
sides = st.sampled_from(["left", "right"])
precisions = st.sampled_from([torch.float32, torch.bfloat16])


def make_attention(settings, seed=0, build=build_attention):
    torch.manual_seed(seed)
    attention = build(GPTConfig(**{"n_embd": C, "n_head": 3, "context_length": 16, **settings})).eval()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    return attention


def pad(rows, length, side, fill):
    """(t, C) rows of unequal length as (B, length, C), the rest filled."""
    batch = fill(len(rows), length, rows[0].shape[-1])
    for padded, row in zip(batch, rows, strict=True):
        padded[real_places(len(row), length, side)] = row
    return batch


def real_places(n, length, side):
    return slice(0, n) if side == "right" else slice(length - n, length)


def noise(*shape):
    return 50 * torch.randn(*shape)


@given(settings=attentions, lengths=lengths_of_texts, more=st.integers(0, 3), side=sides, dtype=precisions)
def test_a_padded_batch_is_its_texts_one_by_one(settings, lengths, more, side, dtype):
    attention = make_attention(settings).to(dtype)
    T = max(lengths) + more
    texts = [torch.randn(n, C).to(dtype) for n in lengths]
    mask = attention_mask(is_real(torch.tensor(lengths), T, side), T, attention.is_causal)
    together = attention(pad(texts, T, side, noise).to(dtype), mask)
    for row, text in zip(together, texts, strict=True):
        alone = attention(text[None])[0]
        torch.testing.assert_close(row[real_places(len(text), T, side)], alone, **CLOSE[dtype])
    assert together.isfinite().all()


@given(settings=attentions, lengths=st.lists(st.integers(0, 5), min_size=1, max_size=3), side=sides, dtype=precisions)
def test_padding_gets_no_weight_and_the_spelled_out_way_is_the_fused_one(settings, lengths, side, dtype):
    attention = make_attention(settings).to(dtype)
    T = 5
    real = is_real(torch.tensor(lengths), T, side)
    mask = attention_mask(real, T, attention.is_causal)
    query, key, value = attention.project(torch.randn(len(lengths), T, C).to(dtype))
    weights = attention.weights(attention.scores(query, key), mask)
    assert (weights.masked_select(~mask.expand_as(weights)) == 0).all(), "exactly"
    sees = mask.any(-1).expand(weights.shape[:-1])
    torch.testing.assert_close(weights.float().sum(-1), sees.float(), **CLOSE[dtype])
    fused = attention.context(query, key, value, mask)
    assert fused.isfinite().all()
    torch.testing.assert_close(attention.mix(weights, value), fused, **CLOSE[dtype])


@given(
    settings=attentions,
    normalize_scores=st.sampled_from(["softmax", "sum"]),
    lengths=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    dropout=st.sampled_from([0.0, 0.3]),
)
def test_rows_that_see_nothing_poison_no_gradient(settings, normalize_scores, lengths, dropout):
    attention = make_attention({**settings, "normalize_scores": normalize_scores, "dropout": dropout}).train()
    T, lengths = 4, torch.tensor(lengths)
    real = is_real(lengths, T, "left")  # a causal query in the padding sees nothing
    x = torch.randn(len(lengths), T, C, requires_grad=True)
    mask = attention_mask(real, T, attention.is_causal)
    parts = attention.project(x)
    if normalize_scores == "sum":  # which divides by the sum of scores: keep them away from 0
        parts = tuple(part.abs() + 0.1 for part in parts)
    spelled_out = attention.mix(attention.weights(attention.scores(*parts[:2]), mask), parts[2])
    for context in (attention.context(*parts, mask), spelled_out):
        assert context.isfinite().all()
        assert (context[~mask.any(-1).expand(context.shape[:-1])] == 0).all()
        x.grad = None
        attention.zero_grad()
        context.square().sum().backward(retain_graph=True)
        assert all(p.grad is None or p.grad.isfinite().all() for p in [x, *attention.parameters()])
        assert (x.grad[lengths == 0] == 0).all()


@given(
    kind=st.sampled_from(KINDS),
    causal=st.sampled_from([None, False]),
    positions=st.sampled_from(["learned", "rotary"]),
    grouped=st.booleans(),
    norm_first=st.booleans(),
    lengths=lengths_of_texts,
    more=st.integers(0, 1),
    side=sides,
    dtype=precisions,
)
def test_logits_of_a_padded_batch_are_those_of_its_texts(
    tiny, kind, causal, positions, grouped, norm_first, lengths, more, side, dtype
):
    settings = {"attention": kind, "norm_first": norm_first}
    if kind == "multi_head":
        settings |= {"causal": causal, **(GROUPED if grouped else {})}
    if kind != "dot":
        settings["positions"] = positions
    model = make(dataclasses.replace(tiny, **settings), std=0.1).to(dtype)
    T = max(lengths) + more
    ids = torch.randint(17, (len(lengths), T))
    together = model(ids, torch.tensor(lengths), side)
    for row, n, logits in zip(ids, lengths, together, strict=True):
        real = real_places(n, T, side)
        torch.testing.assert_close(logits[real], model(row[None, real])[0], **CLOSE[dtype])


@given(lengths=lengths_of_texts, positions=st.sampled_from(["learned", "rotary"]), dtype=precisions)
def test_padded_prompts_in_a_cache_are_a_padded_batch(tiny, lengths, positions, dtype):
    model = make(dataclasses.replace(tiny, positions=positions, **GROUPED), std=0.1).to(dtype)
    B, T, lengths = len(lengths), max(lengths), torch.tensor(lengths)
    ids = torch.randint(17, (B, T + 1))
    rows, cache = torch.arange(B), KeyValueCache(model, B, 8)
    for side in ("left", "right"):
        padded = torch.zeros(B, T + 1, dtype=torch.int64)
        for row, n in zip(rows, lengths.tolist(), strict=True):
            padded[row, real_places(n + 1, T + 1, side)] = ids[row, : n + 1]
        whole = model(padded, lengths + 1, side)
        last = lengths if side == "right" else torch.full((B,), T)
        read = prefill(model, cache, ids[:, :T], lengths)
        torch.testing.assert_close(read, whole[rows, last - 1], **CLOSE[dtype])
        step = decode(model, cache, ids[rows, lengths][:, None], lengths[:, None])[:, 0]
        torch.testing.assert_close(step, whole[rows, last], **CLOSE[dtype])


@pytest.mark.parametrize(
    ("causal", "lengths", "has_mask"),
    [
        (True, [], False),
        (True, [[2], "right"], False),  # what comes later is not seen anyway
        (True, [[2], "left"], True),
        (False, [], False),
        (False, [[2], "right"], True),
    ],
)
def test_a_mask_is_built_only_where_it_is_needed(tiny, causal, lengths, has_mask):
    model, masks = make(dataclasses.replace(tiny, causal=causal)), []
    for block in model.blocks:
        block.attention.register_forward_hook(lambda _module, args, _output: masks.append(args[1]))
    model(torch.zeros(1, 4, dtype=torch.int64), *(torch.tensor(x) if isinstance(x, list) else x for x in lengths))
    assert [mask is not None for mask in masks] == [has_mask] * 2


# Memory


@given(
    settings=attentions,
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    T=st.integers(1, 4),
    side=sides,
    dtype=precisions,
)
def test_memory_is_seen_whole_and_its_padding_not_at_all(settings, lengths, T, side, dtype):
    attention = make_attention(settings, build=build_cross_attention).to(dtype)
    S, lengths = 6, torch.tensor(lengths)
    x, memory = (torch.randn(len(lengths), n, C).to(dtype) for n in (T, S))
    real = is_real(lengths, S, side)
    mask = attention_mask(real, T, attention.is_causal)
    found = attention(x, mask, memory)
    assert found.shape == x.shape
    torch.testing.assert_close(attention(x, mask, torch.where(real[..., None], memory, 40 * memory)), found)
    for row, n in enumerate(lengths.tolist()):
        alone = attention(x[row, None], memory=memory[row, None, real_places(n, S, side)])
        torch.testing.assert_close(found[row, None], alone, **CLOSE[dtype])
    if lengths.min() > 1:
        changed = attention(x, mask, torch.where(real[..., None], memory.flip(-1), memory))
        assert not torch.allclose(changed, found, **CLOSE[dtype]), "real positions matter"


@pytest.mark.parametrize("place", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_query_sees_every_real_position_of_the_memory(kind, place):
    attention = make_attention({"attention": kind}, build=build_cross_attention)
    x, memory = torch.randn(1, 3, C), torch.randn(1, 4, C)
    changed = memory.clone()
    changed[:, place] += 1
    difference = attention(x, memory=changed) - attention(x, memory=memory)
    assert (difference.abs().amax(-1) > 1e-4).all()


@pytest.mark.parametrize("kind", KINDS)
def test_attention_to_a_copy_of_the_input_is_attention_to_the_input(kind):
    settings = {"attention": "self" if kind == "causal" else kind, "causal": False}
    cross, own = make_attention(settings, build=build_cross_attention), make_attention(settings)
    for name, parameter in own.named_parameters():
        part = name.removeprefix("qkv.")
        if part == name:
            cross.get_parameter(name).data = parameter.data
        else:
            n = cross.query.out_features
            cross.query.get_parameter(part).data, cross.key_value.get_parameter(part).data = (
                parameter[:n],
                parameter[n:],
            )
    x = torch.randn(2, 5, C)
    torch.testing.assert_close(cross(x, memory=x.clone()), own(x))


# What is real


def test_which_tokens_are_real_and_where_they_stand():
    lengths = torch.tensor([3, 1, 0])
    assert is_real(lengths, 3).int().tolist() == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert is_real(lengths, 4, "left").int().tolist() == [[0, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert positions_of(lengths, 3).tolist() == [[0, 1, 2]] * 3
    assert positions_of(lengths, 4, "left").tolist() == [[0, 0, 1, 2], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_mask_joins_padding_and_causality():
    real = torch.tensor([[True, True, False]])
    assert attention_mask(real, 3, is_causal=False).int().tolist() == [[[[1, 1, 0]]]]
    assert attention_mask(real, 3, is_causal=True).int().tolist() == [[[[1, 0, 0], [1, 1, 0], [1, 1, 0]]]]
    assert torch.equal(attention_mask(torch.ones(1, 3) > 0, 3, is_causal=True)[0, 0], causal_mask(3, 3))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"n_kv_head": 1}])
def test_rows_that_see_nothing_are_zeros_on_a_gpu(dtype, settings):
    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    attention = make_attention({"n_embd": 48, **settings}).to("cuda", dtype).requires_grad_()
    real = is_real(torch.tensor([2, 0, 4], device="cuda"), 4, "left")
    mask = attention_mask(real, 4, is_causal=True)
    x = torch.randn(3, 4, 48, device="cuda", dtype=dtype, requires_grad=True)
    context = attention.context(*attention.project(x), mask)
    context.float().square().sum().backward()
    assert (context[~mask.any(-1).expand(context.shape[:-1])] == 0).all()
    assert context.isfinite().all()
    assert x.grad.isfinite().all()
    assert (x.grad[~real] == 0).all()
