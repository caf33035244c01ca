"""What stands at the masks of a text."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from llm.config import EncoderConfig, TokenizerConfig
from llm.errors import ConfigError, GenerationError, TokenizerError
from llm.generation import fill_masks
from llm.generation.filling import encode_masked, rank_words
from llm.model import Encoder
from llm.pretrained import read_tokenizer
from llm.tokenizers import MASK, CharTokenizer, build_tokenizer

TOKENIZER = CharTokenizer.from_text("abcdefghij .").with_special(MASK)
TEXTS = ["ab[MASK]d", "[MASK]", "a[MASK]c[MASK] efg[MASK]", "abc. defgh[MASK]"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = Encoder(EncoderConfig(TOKENIZER.vocab_size, 16, n_layer=2, n_head=2, n_embd=16)).eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def test_each_mask_gets_its_most_probable_tokens(model):
    (found,) = fill_masks(model, TOKENIZER, [TEXTS[2]], k=3)
    ids = torch.tensor(TOKENIZER.encode(TEXTS[2]))
    places = (ids == TOKENIZER.special_ids[MASK]).nonzero()[:, 0].tolist()
    logits = model(ids[None])[0, :, :-1]  # but for the mask token, which is the last
    assert [len(candidates) for candidates in found.masks] == [3, 3, 3]
    for place, candidates in zip(places, found.masks, strict=True):
        best = logits[place].softmax(-1).topk(3)
        assert [candidate.id for candidate in candidates] == best.indices.tolist()
        assert [candidate.probability for candidate in candidates] == pytest.approx(best.values.tolist(), abs=1e-6)
        assert [candidate.token for candidate in candidates] == [TOKENIZER.decode([i]) for i in best.indices.tolist()]
        ids[place] = best.indices[0]
    assert found.ids == ids.tolist()
    assert found.to_dict(TOKENIZER)["filled"] == TOKENIZER.decode(ids.tolist())


@pytest.mark.parametrize("batch_size", [2, 4])
def test_in_a_batch_a_text_is_filled_as_alone(model, batch_size):
    alone = [next(iter(fill_masks(model, TOKENIZER, [text]))) for text in TEXTS]
    for one, many in zip(alone, fill_masks(model, TOKENIZER, TEXTS, batch_size=batch_size), strict=True):
        assert one.ids == many.ids
        for mine, theirs in zip(one.masks, many.masks, strict=True):
            assert [candidate.id for candidate in mine] == [candidate.id for candidate in theirs]
            probabilities = [[candidate.probability for candidate in masks] for masks in (mine, theirs)]
            assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-6)


def test_no_special_token_fills_a_mask_and_more_than_there_are_can_be_asked_for(model):
    (found,) = fill_masks(model, TOKENIZER, ["[MASK]"], k=1000)
    assert sorted(candidate.id for candidate in found.masks[0]) == list(range(TOKENIZER.vocab_size - 1))
    assert sum(candidate.probability for candidate in found.masks[0]) == pytest.approx(1.0)


def test_the_space_before_a_word_is_hidden_with_it_where_tokens_hold_it():
    pairs = build_tokenizer(TokenizerConfig("gpt2"), []).with_special(MASK)
    ids = pairs.encode("It was a sunny day.")
    hidden = [pairs.special_ids[MASK] if token_id == pairs.encode(" sunny")[0] else token_id for token_id in ids]
    assert encode_masked(pairs, "It was a [MASK] day.") == hidden
    assert encode_masked(TOKENIZER, "a [MASK]") == [*TOKENIZER.encode("a "), TOKENIZER.special_ids[MASK]]


@pytest.mark.parametrize("text", ["[MASK] day.", " [MASK] day.", "\n[MASK] day.", "It was\t[MASK]"])
def test_a_mask_at_the_start_or_behind_other_white_space(text):
    pairs = build_tokenizer(TokenizerConfig("gpt2"), []).with_special(MASK)
    ids = encode_masked(pairs, text)
    assert ids.count(pairs.special_ids[MASK]) == 1
    assert pairs.decode(ids) == text.removeprefix(" ")


def test_masks_next_to_one_another_are_filled_as_one_word(model):
    text = "ab[MASK][MASK]d [MASK]"
    (found,) = fill_masks(model, TOKENIZER, [text], k=TOKENIZER.vocab_size**2)
    (span,) = found.spans
    words = ["ca", "jj", "a."]
    assert span.first == 0
    assert len(span.candidates) == (TOKENIZER.vocab_size - 1) ** 2
    mask, ids = TOKENIZER.special_ids[MASK], torch.tensor(TOKENIZER.encode(text))
    joined = {joined.word: joined for joined in span.candidates}
    for word in words:
        first, second = TOKENIZER.encode(word)
        shown = torch.where(torch.arange(len(ids)) == 2, first, ids)
        logits = [model(row[None])[0, place, :mask].detach() for row, place in ((ids, 2), (shown, 3))]
        expected = float(logits[0].softmax(-1)[first] * logits[1].softmax(-1)[second])
        assert joined[word].probability == pytest.approx(expected, rel=1e-4)
    assert sum(word.probability for word in span.candidates) == pytest.approx(1.0, abs=1e-4)
    assert found.ids[2:4] == span.candidates[0].ids
    assert span.candidates[0].probability == max(word.probability for word in span.candidates)
    (few,) = fill_masks(model, TOKENIZER, [text], k=3, batch_size=2)
    assert len(few.spans[0].candidates) == 3


def test_pieces_of_one_word_are_joined(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n##s\nthe\n")
    pieces = read_tokenizer(tmp_path / "vocab.txt")
    network = Encoder(EncoderConfig(pieces.vocab_size, 8, n_layer=1, n_head=1, n_embd=2)).eval()
    (found,) = fill_masks(network, pieces, ["the [MASK] [MASK]"], k=9)
    assert {"cats", "cat the", "the cat"} <= {word.word for word in found.spans[0].candidates}


def test_words_are_ranked_by_their_pieces_from_left_to_right(model):
    text, words = "ab[MASK] d", ["c", "ef", "jig"]
    ranked = {word.word: word for word in rank_words(model, TOKENIZER, text, words, batch_size=2)}
    mask = TOKENIZER.special_ids[MASK]
    for word in words:
        ids, expected = TOKENIZER.encode(word), 0.0
        for shown, target in enumerate(ids):
            row = TOKENIZER.encode("ab") + ids[:shown] + [mask] * (len(ids) - shown) + TOKENIZER.encode(" d")
            logits = model(torch.tensor([row]))[0, 2 + shown, :-1]
            expected += float(logits.detach().log_softmax(-1)[target])
        assert ranked[word].log_probability == pytest.approx(expected, abs=1e-4)
        assert ranked[word].tokens == list(word)
    assert sum(word.probability for word in ranked.values()) == pytest.approx(1.0, abs=1e-5)
    totals = [word.log_probability for word in ranked.values()]
    assert totals == sorted(totals, reverse=True)


def test_a_word_of_one_token_has_the_probability_of_that_token(model):
    (filling,) = fill_masks(model, TOKENIZER, ["ab[MASK]d"], k=5)
    ranked = rank_words(model, TOKENIZER, "ab[MASK]d", [candidate.token for candidate in filling.masks[0]])
    assert [word.word for word in ranked] == [candidate.token for candidate in filling.masks[0]]
    expected = [math.log(candidate.probability) for candidate in filling.masks[0]]
    assert [word.log_probability for word in ranked] == pytest.approx(expected, abs=1e-4)


def test_a_word_of_byte_pairs_begins_with_the_space_that_is_hidden():
    pairs = build_tokenizer(TokenizerConfig("gpt2"), []).with_special(MASK)
    config = EncoderConfig(pairs.vocab_size, 16, n_layer=1, n_head=1, n_embd=2)
    (ranked,) = rank_words(Encoder(config).eval(), pairs, "It was a [MASK] day.", ["antidisestablishment"])
    assert "".join(ranked.tokens) == " antidisestablishment"
    assert len(ranked.tokens) > 1
    (ranked,) = rank_words(Encoder(config).eval(), pairs, "It was un[MASK].", ["happy"])
    assert "".join(ranked.tokens) == "happy"


@pytest.mark.parametrize(
    ("text", "words", "error", "message"),
    [
        ("abc", ["a"], TokenizerError, "nothing to fill in"),
        ("[MASK] a [MASK]", ["a"], TokenizerError, "ranked at one \\[MASK\\], and .* has 2"),
        ("[MASK]", [" "], TokenizerError, "a candidate is empty"),
        ("[MASK]", ["az"], TokenizerError, "unknown character 'z'"),
        ("[MASK]", ["[MASK]"], TokenizerError, "candidate '\\[MASK\\]' can't be written"),
        ("a" * 15 + "[MASK]", ["ab"], ConfigError, "a text has 17 tokens, the model's context holds 16"),
    ],
)
def test_words_that_can_not_be_ranked(model, text, words, error, message):
    with pytest.raises(error, match=message):
        rank_words(model, TOKENIZER, text, words)


@pytest.mark.parametrize(
    ("text", "options", "error", "message"),
    [
        ("abc", {}, TokenizerError, "nothing to fill in 'abc': put \\[MASK\\] where a word is hidden"),
        ("abcz[MASK]", {}, TokenizerError, "unknown character 'z'"),
        ("a" * 16 + MASK, {}, ConfigError, "a text has 17 tokens, the model's context holds 16"),
        (MASK, {"k": 0}, ConfigError, "top_k must be at least 1, got 0"),
        (MASK, {"batch_size": 0}, ConfigError, "batch_size must be at least 1, got 0"),
    ],
)
def test_what_can_not_be_filled(model, text, options, error, message):
    with pytest.raises(error, match=message):
        list(fill_masks(model, TOKENIZER, [text], **options))


def test_a_tokenizer_without_a_mask_token(model):
    with pytest.raises(TokenizerError, match="has no token \\[MASK\\]"):
        list(fill_masks(model, TOKENIZER.without_special(MASK), ["[MASK]"]))


def test_spoilt_weights_are_named():
    network = Encoder(EncoderConfig(TOKENIZER.vocab_size, 16, n_layer=1, n_head=2, n_embd=8)).eval()
    nn.init.constant_(network.head.dense.weight, torch.nan)
    with pytest.raises(GenerationError, match="NaN"):
        list(fill_masks(network, TOKENIZER, [MASK]))


def test_masks_whose_joint_probability_no_number_can_hold():
    torch.manual_seed(0)
    network = Encoder(EncoderConfig(TOKENIZER.vocab_size, 330, n_layer=1, n_head=1, n_embd=4)).eval()
    (found,) = fill_masks(network, TOKENIZER, [MASK * 330], k=1)
    ((_, (word,)),) = found.spans
    assert found.ids == word.ids
    assert (len(word.ids), word.probability) == (330, 0.0)
