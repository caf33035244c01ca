"""Heads built by hand score what they must."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import GPTConfig
from llm.inspection import head_scores
from llm.inspection.heads import (
    SCORES,
    duplicate_token,
    entropy,
    heads_table,
    induction,
    previous_token,
    repeated_tokens,
    sink,
)
from llm.model import GPT


def looks_at(T, choose):
    """A head that puts all its weight on key `choose(query)`, or on the first where that is none."""
    weights = torch.zeros(T, T)
    for query in range(T):
        weights[query, max(0, choose(query))] = 1.0
    return weights


def uniform(T):
    return torch.ones(T, T).tril() / torch.arange(1, T + 1)[:, None]


@given(n=st.integers(2, 20))
def test_perfect_heads_score_one_and_on_the_others_zero(n):
    T = 2 * n
    heads = {
        previous_token: looks_at(T, lambda query: query - 1),
        duplicate_token: looks_at(T, lambda query: query - n),
        induction: looks_at(T, lambda query: query - n + 1),
    }
    for score in heads:
        for kind, weights in heads.items():
            value = float(score(weights))
            if kind is score:
                assert value == 1.0
            elif n > 2:  # with two tokens, the token after the one before is the token before
                assert value < 1.0
    if n > 2:
        assert float(duplicate_token(heads[induction])) == 0.0
        assert float(induction(heads[duplicate_token])) == 0.0
        assert float(duplicate_token(heads[previous_token])) == float(induction(heads[previous_token])) == 0.0


@given(n=st.integers(2, 20))
def test_uniform_heads_score_their_known_values(n):
    T, weights = 2 * n, uniform(2 * n)
    assert float(previous_token(weights)) == pytest.approx(sum(1 / (q + 1) for q in range(1, T)) / (T - 1))
    second_half = sum(1 / (q + 1) for q in range(n, T)) / n
    assert float(duplicate_token(weights)) == pytest.approx(second_half)
    assert float(induction(weights)) == pytest.approx(second_half)
    assert float(sink(weights)) == pytest.approx(sum(1 / (q + 1) for q in range(1, T)) / (T - 1))


@given(T=st.integers(2, 30))
def test_entropy_is_one_for_uniform_and_zero_for_one_hot(T):
    assert float(entropy(uniform(T), causal=True)) == pytest.approx(1.0)
    assert float(entropy(torch.full((T, T), 1 / T), causal=False)) == pytest.approx(1.0)
    assert float(entropy(looks_at(T, lambda query: query - 1), causal=True)) == 0.0


def test_entropy_of_a_half_and_half_row():
    weights = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [0.5, 0.5, 0, 0]])
    # rows 1 and 2 are one-hot; row 3 has log 2 of log 4
    assert float(entropy(weights, causal=True)) == pytest.approx((0 + 0 + math.log(2) / math.log(4)) / 3)


@given(T=st.integers(2, 30))
def test_sink_is_the_weight_on_the_first_token(T):
    assert float(sink(looks_at(T, lambda query: 0))) == 1.0
    assert float(sink(torch.eye(T))) == 0.0


@given(vocab_size=st.integers(1, 100), context_length=st.integers(1, 100), seed=st.integers(0, 9))
def test_repeated_tokens_are_distinct_and_come_twice(vocab_size, context_length, seed):
    state = torch.get_rng_state()
    ids = repeated_tokens(vocab_size, context_length, seed)
    assert torch.equal(torch.get_rng_state(), state)
    if min(vocab_size, context_length // 2) < 2:
        assert ids is None
        return
    n = ids.shape[1] // 2
    assert 2 * n <= context_length
    assert torch.equal(ids[:, :n], ids[:, n:])
    assert all(len(row.unique()) == n for row in ids)
    assert int(ids.max()) < vocab_size
    assert torch.equal(ids, repeated_tokens(vocab_size, context_length, seed))


def previous_token_model():
    """A GPT whose one head looks at the token before: positions are one-hot, and queries ask for the one before."""
    T = 16
    config = GPTConfig(
        vocab_size=12, context_length=T, n_layer=1, n_embd=T, attention="causal", norm="none", mlp="none", bias=False
    )
    model = GPT(config)
    with torch.no_grad():
        model.embeddings.token.weight.zero_()
        model.embeddings.position.weight.copy_(torch.eye(T))
        qkv = torch.zeros(3, T, T)
        qkv[0] = 1000 * torch.eye(T).roll(-1, 0)  # query of position p: p - 1
        qkv[1] = torch.eye(T)
        model.blocks[0].attention.qkv.weight.copy_(qkv.reshape(3 * T, T))
        model.blocks[0].attention.qkv.bias.zero_()
    return model


def test_a_model_built_to_look_back_scores_one():
    model = previous_token_model()
    scores = head_scores(model, [uniform(10)[None]])
    assert len(scores) == 1
    assert scores[0].previous_token == pytest.approx(1.0)
    assert scores[0].induction == pytest.approx(0.0, abs=1e-6)
    assert scores[0].entropy == pytest.approx(1.0)  # of the given map


def test_an_untrained_model_looks_around_evenly(tiny):
    torch.manual_seed(0)
    scores = head_scores(GPT(tiny), [uniform(8).expand(2, 8, 8)] * 2)
    assert [(row.layer, row.head) for row in scores] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for row in scores:
        assert row.previous_token == pytest.approx(float(previous_token(uniform(8))), abs=0.01)


def test_a_context_too_short_scores_none():
    scores = head_scores(
        GPT(GPTConfig(vocab_size=5, context_length=1, n_layer=1, n_head=1, n_embd=2)), [uniform(1)[None]]
    )
    assert [getattr(scores[0], name) for name in SCORES] == [None] * 5
    assert "-" in heads_table(scores)
