from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import SamplingConfig, TokenizerConfig
from llm.generation import continue_texts, generate_batch, stream_text
from llm.generation.text import GrowingText
from llm.tokenizers import build_tokenizer
from llm.tokenizers.char import CharTokenizer

CHARS = CharTokenizer.from_text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUV", ("<|endoftext|>",))
SAMPLED = SamplingConfig(max_new_tokens=30, temperature=1.5, top_k=None)


@pytest.fixture(scope="module")
def model(make_model):
    return make_model(vocab_size=CHARS.vocab_size)


@pytest.fixture(scope="module")
def texts():
    return [torch.tensor(CHARS.encode(text)) for text in ("abc", "Q", "hello", "a" * 20)]


def test_continuations_are_the_decoded_tokens_in_order(model, texts):
    sampling = replace(SAMPLED, n_samples=2)
    ids = generate_batch(model, texts, sampling, CHARS.end_of_text_id)
    for batch_size in (1, 3, 8):
        found = list(continue_texts(model, CHARS, texts, sampling, batch_size))
        assert [(item.prompt, item.sample) for item in found] == [(p, s) for p in range(4) for s in range(2)]
        assert [item.ids for item in found] == [sample for samples in ids for sample in samples]
        assert all(item.text == CHARS.decode(item.ids) for item in found)
        assert all(item.end == ("length" if len(item.ids) == 30 else "stop") for item in found)
    assert {item.end for item in found} == {"length", "stop"}


def test_a_prompt_may_be_a_text(model, texts):
    from_texts = list(continue_texts(model, CHARS, ["abc", "Q"], SAMPLED))
    assert from_texts == list(continue_texts(model, CHARS, texts[:2], SAMPLED))
    assert "".join(stream_text(model, CHARS, "abc", SAMPLED)) == from_texts[0].text


def test_a_text_ends_before_a_stop_text(model, texts):
    free = list(continue_texts(model, CHARS, texts, SAMPLED))
    stop = (free[0].text[4:7], free[1].text[5:6])
    ended = list(continue_texts(model, CHARS, texts, replace(SAMPLED, stop=stop)))
    for before, after in zip(free, ended, strict=True):
        places = [(place + len(text), place) for text in stop if (place := before.text.find(text)) >= 0]
        assert after.text == (before.text[: min(places)[1]] if places else before.text)
        assert after.end == ("stop" if places else before.end)
        assert before.ids[: len(after.ids)] == after.ids
    assert len(ended[0].ids) <= 7


def test_a_stream_is_the_same_text(model, texts):
    for stop in ((), ("e",), ("ab", "xyz", "Q")):
        sampling = replace(SAMPLED, stop=stop)
        for prompt, whole in zip(texts, continue_texts(model, CHARS, texts, sampling), strict=True):
            pieces = list(stream_text(model, CHARS, prompt, sampling))
            assert "".join(pieces) == whole.text
            assert len(pieces) >= len(whole.ids)


def test_a_stream_gives_each_token_when_it_comes(model, texts):
    reads = []
    handle = model.final_norm.register_forward_hook(lambda *_: reads.append(1))
    for number, piece in zip(range(1, 6), stream_text(model, CHARS, texts[0], SAMPLED), strict=False):
        assert len(piece) == 1
        assert len(reads) == number
    handle.remove()


@given(text=st.text("abc", max_size=30), stop=st.lists(st.text("abc", min_size=1, max_size=4), max_size=3))
def test_stop_texts_are_found_wherever_tokens_end(text, stop):
    growing = GrowingText(CHARS, CHARS.encode("ab"), stop)
    shown = ""
    for token_id in CHARS.encode(text):
        stopped = growing.add(token_id)
        assert growing.text.startswith(shown)  # nothing that was shown is taken back
        shown = growing.text[: growing.n_settled]
        if stopped:
            break
    growing.finish()
    # The first end of a stop string decides; of those that end there, the one that began first.
    ends = [(place + len(part), place) for part in stop if (place := text.find(part)) >= 0]
    assert growing.text == (text[: min(ends)[1]] if ends else text)
    assert growing.is_stopped == bool(ends)


def test_characters_of_several_tokens_are_whole():
    gpt2 = build_tokenizer(TokenizerConfig("gpt2"), [])
    ids = gpt2.encode("猫が 😀!")
    growing = GrowingText(gpt2, gpt2.encode("a"), ())
    shown = []
    for token_id in ids:
        growing.add(token_id)
        shown.append(growing.text)
    growing.finish()
    assert growing.text == "猫が 😀!"
    assert not any("\N{REPLACEMENT CHARACTER}" in text for text in shown)


def test_words_are_joined_to_the_prompt():
    words = build_tokenizer(TokenizerConfig("word"), ["the cat sat."])
    growing = GrowingText(words, words.encode("the"), ())
    for token_id in words.encode("cat sat."):
        growing.add(token_id)
    growing.finish()
    assert growing.text == " cat sat."
