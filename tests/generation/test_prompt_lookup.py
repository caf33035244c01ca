from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import SamplingConfig
from llm.errors import ConfigError
from llm.generation import generate, generate_batch
from llm.generation.decoding import Reader
from llm.generation.prompt_lookup import PromptLookup
from llm.model import cache

PLAIN = SamplingConfig(max_new_tokens=30, temperature=0.0, compile="never", prompt_lookup=0)


def guesses_along(text, n_guesses=3, start=1):
    prompt_lookup = PromptLookup(n_guesses)
    return [prompt_lookup.guess(text[:n]) for n in range(start, len(text) + 1)]


def test_a_guess_is_what_came_after_these_tokens_before():
    text = [1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert guesses_along(text)[-1] == [], "a guess is pending: that 3, 4, 5 come after 1, 2"
    assert PromptLookup(3).guess(text) == [4, 5, 6]
    assert PromptLookup(2).guess(text) == [4, 5]
    assert PromptLookup(3).guess([7, 2, 8, 3, 1, 2]) == [], "one token alone is no reason"
    assert PromptLookup(3).guess([7, 1, 2, 9, 8, 1, 2, 6, 5, 4, 7, 1, 2]) == [9, 8, 1], "three say more than two"


def test_a_text_in_a_circle_goes_on_in_it():
    assert PromptLookup(3).guess([5, 5, 5]) == [5, 5, 5]
    assert PromptLookup(5).guess([1, 2, 1, 2]) == [1, 2, 1, 2, 1]


def test_who_guesses_wrong_falls_silent_and_who_would_have_been_right_speaks_again():
    prompt_lookup = PromptLookup(3)
    text = [1, 2]
    silent_after = None
    for other in range(10, 60):
        guess = prompt_lookup.guess(text)
        if other > 11 and not guess and silent_after is None:
            silent_after = other
        text += [other, 1, 2]  # what follows 1, 2 is never what followed it before
    assert silent_after is not None
    assert prompt_lookup.guess(text) == []
    text += [1, 2, 3] * 60
    spoken = False
    for n in range(len(text) - 170, len(text)):
        spoken |= bool(prompt_lookup.guess(text[:n]))
    assert spoken


@given(text=st.lists(st.integers(0, 3), min_size=1, max_size=60), n_guesses=st.integers(1, 5))
def test_a_guess_is_whole_and_was_there_before(text, n_guesses):
    for n, guess in enumerate(guesses_along(text, n_guesses), start=1):
        assert len(guess) in (0, n_guesses)
        if guess:
            pairs = list(pairwise(text[:n]))
            assert tuple(text[n - 2 : n]) in pairs[:-1]
            assert set(guess) <= set(text[:n])


def test_logits_count_as_far_as_the_text_went_as_guessed():
    prompt_lookup, logits = PromptLookup(2), torch.randn(3, 7)
    prompt_lookup.keep([1, 2], [3, 4], logits)
    assert prompt_lookup.logits([1, 2]) is None
    assert torch.equal(prompt_lookup.logits([1, 2, 3]), logits[1])
    assert torch.equal(prompt_lookup.logits([1, 2, 3, 4]), logits[2])
    assert prompt_lookup.logits([1, 2, 4]) is None
    assert prompt_lookup.logits([1, 2, 3, 3]) is None
    assert prompt_lookup.logits([1, 2, 3, 4, 5]) is None


# In generation


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("prompt_lookup", [1, 3, 7])
def test_the_text_is_the_same(make_model, prompt_lookup, temperature):
    for seed in range(5):
        model = make_model(seed, context_length=48)
        prompt = torch.tensor([3, 1, 4, 1, 5, 3, 1, 4, 1])
        sampling = replace(PLAIN, temperature=temperature, max_new_tokens=50, repetition_penalty=1.1)
        expected = list(generate(model, prompt, sampling))  # past the context, too
        assert list(generate(model, prompt, replace(sampling, prompt_lookup=prompt_lookup))) == expected


def test_logits_are_those_of_the_window(make_model):
    model = make_model(context_length=32)
    text = [1, 2, 3, 4, 1, 2]
    reader = Reader(model, [text], replace(PLAIN, prompt_lookup=3))
    with torch.no_grad():
        for token in [3, 4, 1, 2, 9, 3, 4, 1, 2, 3, 4, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]:
            expected = model(torch.tensor([text[-32:]]))[0, -1]
            torch.testing.assert_close(reader.logits([0])[0], expected, atol=1e-5, rtol=1e-5)
            text.append(token)


def test_a_text_that_repeats_itself_takes_fewer_steps(make_model, monkeypatch):
    steps = []
    decode = cache.decode
    monkeypatch.setattr("llm.generation.decoding.decode", lambda *parts: steps.append(1) or decode(*parts))
    model = make_model(context_length=64)
    with torch.no_grad():
        model.head.weight.zero_()  # all logits are equal, and the first token is taken
    prompt = torch.tensor([0, 0, 0])
    assert list(generate(model, prompt, PLAIN)) == [0] * 30
    plain, steps[:] = len(steps), []
    assert list(generate(model, prompt, replace(PLAIN, prompt_lookup=3))) == [0] * 30
    assert plain == 29
    assert len(steps) <= 9


def test_several_prompts_side_by_side_are_not_guessed(make_model, prompts):
    model = make_model(context_length=64)
    expected = generate_batch(model, prompts, PLAIN)
    assert generate_batch(model, prompts, replace(PLAIN, prompt_lookup=3)) == expected


def test_a_number_below_zero_is_refused():
    with pytest.raises(ConfigError, match="prompt_lookup must be at least 0, got -1"):
        SamplingConfig(prompt_lookup=-1)
