import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import SamplingConfig
from llm.errors import ConfigError, GenerationError
from llm.generation.sampling import choose, distribution, penalize

logits_lists = st.lists(st.floats(-8, 8, width=32), min_size=1, max_size=12)


def config(**settings):
    return SamplingConfig(**{"temperature": 1.0, "top_k": None, **settings})


def shares(logits, **settings):
    """The normalized probability of each token, as a list over the whole vocabulary."""
    logits = torch.tensor([logits])
    probabilities, ids = distribution(logits, config(**settings))
    full = torch.zeros_like(logits).scatter(1, ids, probabilities)
    return (full / full.sum())[0].tolist()


@given(logits_lists, st.floats(0.1, 3))
def test_temperature_divides_the_logits(logits, temperature):
    expected = torch.softmax(torch.tensor(logits) / temperature, dim=0).tolist()
    assert shares(logits, temperature=temperature) == pytest.approx(expected, abs=1e-5)


@given(logits_lists, st.integers(1, 15))
def test_top_k_keeps_the_k_likeliest(logits, k):
    found = shares(logits, top_k=k)
    kept = [index for index, share in enumerate(found) if share > 0]
    assert len(kept) == min(k, len(logits))
    assert sorted((logits[index] for index in kept), reverse=True) == sorted(logits, reverse=True)[:k]


@given(logits_lists, st.floats(0.05, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits, p):
    full = torch.softmax(torch.tensor(logits), dim=0)
    kept = torch.tensor(shares(logits, top_p=p)) > 0
    assert full[kept].sum() >= p - 1e-5
    assert full[kept].sum() - full[kept].min() < p + 1e-5
    if not kept.all():
        assert full[kept].min() >= full[~kept].max()


def test_top_p_of_one_leaves_nothing_out():
    logits = torch.randn(1, 50_257, generator=torch.Generator().manual_seed(0)) * 3
    probabilities, _ = distribution(logits, config(top_p=1.0))
    assert (probabilities > 0).all()


@given(logits_lists, st.floats(0, 1))
def test_min_p_keeps_what_is_a_share_of_the_likeliest(logits, p):
    full = torch.softmax(torch.tensor(logits), dim=0)
    kept = torch.tensor(shares(logits, min_p=p)) > 0
    least = p * full.max()
    assert kept[full > least * (1 + 1e-5)].all()
    assert not kept[full < least * (1 - 1e-5)].any()


def test_filters_follow_each_other():
    logits = [math.log(share) for share in (0.4, 0.3, 0.2, 0.1)]
    # Of the three likeliest, 4/9 + 3/9 reach 0.7; 3/4 of the likeliest is just enough for min_p.
    assert shares(logits, top_k=3, top_p=0.7, min_p=0.7) == pytest.approx([4 / 7, 3 / 7, 0, 0])
    assert shares(logits, top_k=3, top_p=0.7, min_p=0.8) == pytest.approx([1, 0, 0, 0])


@pytest.mark.parametrize(
    ("settings", "warper"),
    [
        ({"top_k": 3}, lambda t: t.TopKLogitsWarper(3)),
        ({"top_p": 0.6}, lambda t: t.TopPLogitsWarper(0.6)),
        ({"min_p": 0.2}, lambda t: t.MinPLogitsWarper(0.2)),
        ({"temperature": 0.7}, lambda t: t.TemperatureLogitsWarper(0.7)),
    ],
)
def test_filters_are_those_of_hugging_face(settings, warper):
    process = pytest.importorskip("transformers.generation.logits_process")
    torch.manual_seed(0)
    for logits in torch.randn(20, 1, 30) * 2:
        expected = torch.softmax(warper(process)(None, logits.clone()), dim=-1)[0].tolist()
        assert shares(logits[0].tolist(), **settings) == pytest.approx(expected, abs=1e-6)


def test_the_repetition_penalty_is_that_of_hugging_face():
    process = pytest.importorskip("transformers.generation.logits_process")
    torch.manual_seed(0)
    logits, texts = torch.randn(4, 30), torch.randint(30, (4, 9))
    seen = torch.zeros(4, 30, dtype=torch.bool).scatter(1, texts, True)
    expected = process.RepetitionPenaltyLogitsProcessor(1.3)(texts, logits.clone())
    torch.testing.assert_close(penalize(logits, seen, 1.3), expected)


def test_greedy_takes_the_likeliest_that_is_left_after_the_penalty():
    logits = torch.tensor([[1.0, 2.0, 1.5], [0.0, -1.0, -2.0]])
    seen = torch.tensor([[False, True, False], [False, False, False]])
    greedy = config(temperature=0.0, repetition_penalty=2.0)
    assert choose(logits, greedy, torch.zeros(2)) == [1, 0]
    assert choose(logits, greedy, torch.zeros(2), seen) == [2, 0]


def test_choices_have_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    draws = (torch.arange(10_000) + 0.5) / 10_000
    for settings in ({}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2, "temperature": 0.5}):
        ids = choose(logits.expand(10_000, 4), config(**settings), draws)
        counts = torch.bincount(torch.tensor(ids), minlength=4) / 10_000
        assert counts.tolist() == pytest.approx(shares(logits[0].tolist(), **settings), abs=2e-4)


@given(logits_lists, st.floats(0, 1, exclude_max=True, width=32), st.floats(0.01, 1))
def test_a_token_that_was_left_out_is_never_chosen(logits, draw, p):
    draw = min(draw, 1 - 2**-24)  # the largest that torch.rand gives
    for settings in ({"top_p": p}, {"min_p": p}, {"top_k": 2, "top_p": p}):
        (token,) = choose(torch.tensor([logits]), config(**settings), torch.tensor([draw]))
        assert shares(logits, **settings)[token] > 0


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite(temperature, value):
    logits = torch.tensor([[0.0, 1.0], [value, 1.0]])
    with pytest.raises(GenerationError, match="logits are NaN or infinite"):
        choose(logits, config(temperature=temperature), torch.tensor([0.5, 0.5]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_p": 1.5}, "min_p must be from 0 to 1"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0"),
        ({"n_samples": 0}, "n_samples must be at least 1"),
        ({"stop": "end"}, "stop must be a list"),
        ({"stop": ("",)}, "stop holds an empty string"),
        ({"stop_ids": (-1,)}, "stop_ids must be at least 0"),
        ({"compile": "sometimes"}, "compile must be one of auto, always, never"),
    ],
)
def test_settings_that_can_not_be(settings, message):
    with pytest.raises(ConfigError, match=message):
        SamplingConfig(**settings)
