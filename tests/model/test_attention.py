import math
from dataclasses import replace
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import AttentionKind, GPTConfig
from llm.model import DotAttention, MultiHeadAttention, causal_mask
from llm.model.attention import ATTENTION_KINDS, build_attention

KINDS = get_args(AttentionKind)
FOUR_DECIMALS = {"atol": 5.1e-5, "rtol": 0}


def make(kind, seed=0, **options):
    """An attention whose weights are large enough to tell keys apart, in eval mode."""
    torch.manual_seed(seed)
    config = GPTConfig(**{"n_embd": 12, "n_head": 3, "attention": kind, **options})
    attention = build_attention(config).eval()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return attention


# The figures of the notes


def simple(**options):
    return DotAttention(GPTConfig(n_embd=3, n_head=1, attention="dot", scale_scores=False, **options)).eval()


@pytest.fixture
def golden(figures):
    """The figures of the weight-free attention, tensors where they are numbers."""
    figure = figures["simple_attention"]
    return {name: value if name == "words" else torch.tensor(value) for name, value in figure.items()}


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def naive_softmax(scores):
    exponentials = [math.exp(score) for score in scores]
    return [exponential / sum(exponentials) for exponential in exponentials]


def mix(weights, rows):
    return [dot(weights, column) for column in zip(*rows, strict=True)]


def test_one_query_by_loops(figures):
    golden = figures["simple_attention"]
    inputs = golden["inputs"]
    assert golden["words"] == ["Your", "journey", "starts", "with", "one", "step"]
    query = inputs[golden["words"].index("journey")]
    close = {"abs": FOUR_DECIMALS["atol"], "rel": 0}

    scores = [dot(query, row) for row in inputs]
    assert scores == pytest.approx(golden["scores_of_query_1"], **close)
    fractions = [score / sum(scores) for score in scores]
    assert fractions == pytest.approx(golden["sum_normalized_of_query_1"], **close)
    softmax_of_fractions = naive_softmax(fractions)
    assert softmax_of_fractions == pytest.approx(golden["softmax_of_the_sum_normalized_of_query_1"], **close)
    assert mix(softmax_of_fractions, inputs) == pytest.approx(golden["context_from_that"], **close)
    weights = naive_softmax(scores)
    assert weights == pytest.approx(golden["softmax_of_the_raw_scores_of_query_1"], **close)
    assert mix(weights, inputs) == pytest.approx(golden["context_from_raw_softmax_of_query_1"], **close)


def test_one_query(golden):
    attention = simple()
    query, key, value = attention.project(golden["inputs"][None])
    second = query[:, :, 1:2]

    scores = attention.scores(second, key)
    torch.testing.assert_close(scores[0, 0, 0], golden["scores_of_query_1"], **FOUR_DECIMALS)
    fractions = simple(normalize_scores="sum").weights(scores)
    torch.testing.assert_close(fractions[0, 0, 0], golden["sum_normalized_of_query_1"], **FOUR_DECIMALS)
    of_fractions = attention.weights(fractions)
    expected = golden["softmax_of_the_sum_normalized_of_query_1"]
    torch.testing.assert_close(of_fractions[0, 0, 0], expected, **FOUR_DECIMALS)
    torch.testing.assert_close((of_fractions @ value)[0, 0, 0], golden["context_from_that"], **FOUR_DECIMALS)

    weights = attention.weights(scores)
    expected = golden["softmax_of_the_raw_scores_of_query_1"]
    torch.testing.assert_close(weights[0, 0, 0], expected, **FOUR_DECIMALS)
    expected = golden["context_from_raw_softmax_of_query_1"]
    torch.testing.assert_close(attention.context(second, key, value)[0, 0, 0], expected, **FOUR_DECIMALS)


def test_all_queries_by_one_matrix_product(golden):
    attention = simple()
    inputs = golden["inputs"][None]
    query, key, value = attention.project(inputs)
    scores = attention.scores(query, key)
    torch.testing.assert_close(scores[0, 0], golden["scores"], **FOUR_DECIMALS)
    weights = attention.weights(scores)
    torch.testing.assert_close(weights[0, 0], golden["weights"], **FOUR_DECIMALS)
    torch.testing.assert_close((weights @ value)[0, 0], golden["context_vectors"], **FOUR_DECIMALS)
    fused = attention.context(query, key, value)
    torch.testing.assert_close(fused[0, 0], golden["context_vectors"], **FOUR_DECIMALS)
    torch.testing.assert_close(attention(inputs)[0], golden["context_vectors"], **FOUR_DECIMALS)


def test_all_queries_by_loops_agree_with_the_matrix_product(golden):
    inputs = golden["inputs"].tolist()
    scores = [[dot(query, key) for key in inputs] for query in inputs]
    weights = [naive_softmax(row) for row in scores]
    contexts = [mix(row, inputs) for row in weights]
    torch.testing.assert_close(torch.tensor(scores), golden["scores"], **FOUR_DECIMALS)
    torch.testing.assert_close(torch.tensor(weights), golden["weights"], **FOUR_DECIMALS)
    torch.testing.assert_close(torch.tensor(contexts), golden["context_vectors"], **FOUR_DECIMALS)

    attention = simple()
    query, key, value = attention.project(golden["inputs"][None])
    product = attention.scores(query, key)
    torch.testing.assert_close(product[0, 0], torch.tensor(scores))
    torch.testing.assert_close(attention.weights(product)[0, 0], torch.tensor(weights))
    torch.testing.assert_close(attention.context(query, key, value)[0, 0], torch.tensor(contexts))


# Every kind

shapes = {"B": st.integers(1, 3), "T": st.integers(1, 9), "seed": st.integers(0, 1000)}


def test_every_kind_has_a_class():
    assert set(ATTENTION_KINDS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale_scores", [True, False])
@given(**shapes)
def test_fused_attention_is_the_explicit_one(kind, scale_scores, B, T, seed):
    attention = make(kind, seed, scale_scores=scale_scores)
    query, key, value = attention.project(torch.randn(B, T, 12))
    weights = attention.weights(attention.scores(query, key))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    torch.testing.assert_close(attention.context(query, key, value), weights @ value, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sum_normalized_weights_are_fractions_and_are_used(kind):
    attention = make(kind, normalize_scores="sum", scale_scores=False)
    query, key, value = (tensor.abs() + 0.1 for tensor in attention.project(torch.randn(2, 5, 12)))
    scores = attention.scores(query, key)
    weights = attention.weights(scores)
    visible = scores.tril() if attention.is_causal else scores
    torch.testing.assert_close(weights, visible / visible.sum(-1, keepdim=True))
    torch.testing.assert_close(attention.context(query, key, value), weights @ value)


@pytest.mark.parametrize("kind", KINDS)
@given(**shapes)
def test_loops_and_matrix_form_agree(kind, B, T, seed):
    attention = make(kind, seed)
    x = torch.randn(B, T, 12, dtype=torch.float64)
    attention.double()
    query, key, value = attention.project(x)
    heads, size = query.shape[1], query.shape[3]
    contexts = torch.empty_like(query)
    for b in range(B):
        for h in range(heads):
            for t in range(T):
                seen = range(t + 1) if attention.is_causal else range(T)
                scores = [query[b, h, t].dot(key[b, h, other]).item() / math.sqrt(size) for other in seen]
                rows = [value[b, h, other].tolist() for other in seen]
                contexts[b, h, t] = torch.tensor(mix(naive_softmax(scores), rows), dtype=torch.float64)
    torch.testing.assert_close(attention.context(query, key, value), contexts)
    torch.testing.assert_close(attention(x), attention.output(contexts))


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind):
    attention = make(kind)
    heads = 3 if kind == "multi_head" else 1
    x = torch.randn(2, 5, 12)
    parts = attention.project(x)
    assert [part.shape for part in parts] == [(2, heads, 5, 12 // heads)] * 3
    assert attention.scores(*parts[:2]).shape == (2, heads, 5, 5)
    assert attention.weights(attention.scores(*parts[:2])).shape == (2, heads, 5, 5)
    assert attention.context(*parts).shape == parts[2].shape
    assert attention(x).shape == x.shape


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_divided_by_the_root_of_the_head_size(kind):
    raw, scaled = make(kind, scale_scores=False), make(kind, scale_scores=True)
    query, key, _ = raw.project(torch.randn(2, 5, 12))
    size = query.shape[-1]
    torch.testing.assert_close(raw.scores(query, key), query @ key.transpose(-2, -1))
    torch.testing.assert_close(scaled.scores(query, key), raw.scores(query, key) / math.sqrt(size))


@pytest.mark.parametrize("kind", KINDS)
def test_only_causal_kinds_hide_the_future(kind):
    attention = make(kind)
    query, key, _ = attention.project(torch.randn(2, 6, 12))
    future = attention.weights(attention.scores(query, key)).triu(1)
    is_causal = GPTConfig(attention=kind).is_causal
    assert attention.is_causal == is_causal
    assert bool((future == 0).all()) == is_causal
    x = torch.randn(2, 6, 12)
    changed = torch.cat([x[:, :3], torch.randn(2, 3, 12)], dim=1)
    before = torch.allclose(attention(x)[:, :3], attention(changed)[:, :3], atol=1e-6)
    assert before == is_causal


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_for_training_only(kind):
    attention = make(kind, dropout=0.5)
    x = torch.randn(2, 6, 12)
    assert torch.equal(attention(x), attention(x))
    torch.testing.assert_close(attention(x), make(kind, dropout=0.0)(x))
    attention.train()
    assert not torch.allclose(attention(x), attention(x))


def test_which_kinds_are_trained():
    n_parameters = {kind: sum(p.numel() for p in make(kind).parameters()) for kind in KINDS}
    qkv = 12 * 36 + 36
    assert n_parameters == {"dot": 0, "self": qkv, "causal": qkv, "multi_head": qkv + 12 * 12 + 12}


@pytest.mark.parametrize(("qkv_bias", "bias"), [(True, False), (False, True)])
def test_biases_are_optional(qkv_bias, bias):
    names = {name for name, _ in make("multi_head", qkv_bias=qkv_bias, bias=bias).named_parameters()}
    assert ("qkv.bias" in names, "projection.bias" in names) == (qkv_bias, bias)


def test_several_heads_are_causal_attentions_side_by_side():
    config = GPTConfig(n_embd=12, n_head=3)
    torch.manual_seed(0)
    several = MultiHeadAttention(config).eval()
    x = torch.randn(2, 5, 12)
    one_head = replace(config, n_embd=4, attention="causal")
    contexts = []
    for h in range(3):
        rows = torch.cat([torch.arange(4) + 12 * part + 4 * h for part in range(3)])
        query, key, value = (x @ several.qkv.weight[rows].T + several.qkv.bias[rows]).unsqueeze(1).chunk(3, -1)
        contexts.append(build_attention(one_head).eval().context(query, key, value).squeeze(1))
    torch.testing.assert_close(several(x), several.projection(torch.cat(contexts, dim=-1)))


def test_causal_mask():
    assert causal_mask(3, 3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert causal_mask(1, 3).int().tolist() == [[1, 1, 1]]


@pytest.mark.parametrize("kind", KINDS)
def test_short_texts_in_bfloat16_are_attended_in_float32(kind):
    torch.manual_seed(0)
    attention = make(kind)
    query, key, value = (torch.randn(2, attention.n_head if kind != "dot" else 1, 6, 4) for _ in range(3))
    found = []
    for precision in (torch.float32, torch.bfloat16):
        leaves = [part.to(torch.bfloat16).to(precision).requires_grad_() for part in (query, key, value)]
        context = attention.context(*leaves)
        assert context.dtype == precision
        context.float().square().sum().backward()
        found.append([context.float(), *(leaf.grad.float() for leaf in leaves)])
    for exact, rounded in zip(*found, strict=True):
        torch.testing.assert_close(rounded, exact, atol=2e-2, rtol=2e-2)
    with torch.no_grad():  # the same numbers, rounded once at the end
        parts = [part.to(torch.bfloat16) for part in (query, key, value)]
        exact = attention.context(*(part.float() for part in parts))
    assert torch.equal(found[1][0], exact.to(torch.bfloat16).float())
