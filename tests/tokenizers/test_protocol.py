"""What every tokenizer must do, whichever kind it is."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.config import TokenizerConfig
from llm.data.reading.sources import last_cut
from llm.errors import TokenizerError
from llm.tokenizers import (
    END_OF_TEXT,
    MASK,
    BPETokenizer,
    BytePairTokenizer,
    CharTokenizer,
    WordTokenizer,
    build_tokenizer,
    tokenizer_from_dict,
)

TEXT = "The cat sat; the “naïve” dog ran: 猫が座った。 مرحبا 😀 -- it's <|endoftext|> done.\n"
SIGNS = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 324))]
"""GPT-2's printable signs of the 256 bytes."""
TOKENIZERS = {
    "word": WordTokenizer.from_text(TEXT),
    "word with specials": WordTokenizer.from_text(
        TEXT.replace(END_OF_TEXT, ""), "without_colon", (END_OF_TEXT, "<|unk|>")
    ),
    "char": CharTokenizer.from_text(TEXT),
    "char with specials": CharTokenizer.from_text(TEXT, (END_OF_TEXT, "[UNK]", "[PAD]")),
    "gpt2": BPETokenizer(),
    "byte_pairs": BytePairTokenizer(
        {sign: number for number, sign in enumerate([*SIGNS, "Ġs", "Ġsa", "Ġsat"])}, {END_OF_TEXT: len(SIGNS) + 3}
    ),
    "bpe": build_tokenizer(TokenizerConfig("bpe", vocab_size=320, pattern="gpt4"), [TEXT * 5]),
}


@pytest.fixture(params=TOKENIZERS)
def tokenizer(request):
    return TOKENIZERS[request.param]


def is_primitive(value):
    if isinstance(value, dict):
        return all(type(key) is str and is_primitive(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(is_primitive, value))
    return value is None or type(value) in (str, int, float, bool)


def test_its_dict_is_primitives_and_builds_it_again(tokenizer):
    state = tokenizer.to_dict()
    assert is_primitive(state)
    assert state["kind"] == type(tokenizer).kind
    again = tokenizer_from_dict(json.loads(json.dumps(state)))
    assert type(again) is type(tokenizer)
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert again.fingerprint == tokenizer.fingerprint
    assert (again.vocab_size, again.special_ids) == (tokenizer.vocab_size, tokenizer.special_ids)
    assert again.encode(TEXT) == tokenizer.encode(TEXT)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.lists(st.one_of(st.sampled_from([*TEXT, END_OF_TEXT, "[PAD]"]), st.characters())).map("".join))
def test_an_array_of_ids_is_the_ids_or_the_same_error(name, text):
    tokenizer = TOKENIZERS[name]

    def outcome(encode):
        try:
            return [int(token) for token in encode(text)]
        except TokenizerError as error:
            return str(error)

    assert outcome(tokenizer.encode_array) == outcome(tokenizer.encode)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(st.lists(st.sampled_from([*TEXT, *TEXT, END_OF_TEXT, "   ", "\n\n"])).map("".join))
def test_the_ids_of_a_text_cut_where_it_may_be_are_those_of_the_whole(name, text):
    tokenizer = TOKENIZERS[name]
    cut = last_cut(text, tokenizer.cuts)
    try:
        ids = tokenizer.encode(text)
    except TokenizerError:
        return
    assert tokenizer.encode(text[:cut]) + tokenizer.encode(text[cut:]) == ids


def test_ids_are_ints_in_the_vocabulary(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert len(ids) > 5
    assert all(type(token_id) is int and 0 <= token_id < tokenizer.vocab_size for token_id in ids)


def test_lossless_means_that_text_and_bytes_survive(tokenizer):
    ids = tokenizer.encode(TEXT)
    pieces = tokenizer.split(TEXT)
    assert pieces == [tokenizer.token_bytes(token_id) for token_id in ids]
    assert (tokenizer.decode(ids) == TEXT) == tokenizer.lossless
    assert (b"".join(pieces) == TEXT.encode()) == tokenizer.lossless


@given(data=st.data())
@pytest.mark.parametrize("name", TOKENIZERS)
def test_stream_is_decode_in_pieces(name, data):
    tokenizer = TOKENIZERS[name]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1)))
    assert "".join(tokenizer.stream(iter(ids))) == tokenizer.decode(ids)


def test_special_tokens_encode_to_their_ids_and_back(tokenizer):
    specials = tokenizer.special_ids
    assert len(set(specials.values())) == len(specials)
    for name, token_id in specials.items():
        assert tokenizer.encode(name) == [token_id]
        assert tokenizer.decode([token_id]) == name
        assert tokenizer.token_bytes(token_id) == name.encode()
    assert tokenizer.end_of_text_id == specials.get(END_OF_TEXT)


def test_which_special_tokens_there_are():
    assert {name: list(tokenizer.special_ids) for name, tokenizer in TOKENIZERS.items()} == {
        "word": [],
        "word with specials": [END_OF_TEXT, "<|unk|>"],
        "char": [],
        "char with specials": [END_OF_TEXT, "[UNK]", "[PAD]"],
        "gpt2": [END_OF_TEXT],
        "byte_pairs": [END_OF_TEXT],
        "bpe": [END_OF_TEXT],
    }


@pytest.mark.parametrize("past_the_end", [True, False])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, past_the_end):
    bad = tokenizer.vocab_size if past_the_end else -1
    for use in (lambda: tokenizer.decode([0, bad]), lambda: tokenizer.token_bytes(bad)):
        with pytest.raises(TokenizerError, match=f"{bad} .*{tokenizer.vocab_size}"):
            use()
    with pytest.raises(TokenizerError, match=str(bad)):
        list(tokenizer.stream([0, bad]))


def test_fingerprints_tell_tokenizers_apart():
    different = [
        *TOKENIZERS.values(),
        WordTokenizer(["a", "b"]),
        WordTokenizer(["b", "a"]),
        WordTokenizer(["a", "b"], "without_colon"),
        WordTokenizer(["a", "b"], specials=("[EOS]",)),
        WordTokenizer(["a"], specials=("b",)),
        CharTokenizer("ab"),
        CharTokenizer("ba"),
        CharTokenizer("ab", ("[EOS]",)),
    ]
    assert len({tokenizer.fingerprint for tokenizer in different}) == len(different)
    assert len(set(different)) == len(different)


def test_equal_tokenizers_share_a_fingerprint():
    built = build_tokenizer(TokenizerConfig("word", specials=()), ["b a"])
    assert built.fingerprint == WordTokenizer(["a", "b"]).fingerprint
    assert built == WordTokenizer(["a", "b"])
    assert built != "a b"


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        {"kind": "sentencepiece"},
        {"kind": "word", "vocabulary": ["a"]},
        {"kind": "char"},
        {"kind": "bpe"},
        {"kind": "bpe", "encoding": "no such encoding"},
        {"kind": "char", "vocabulary": "aa", "specials": []},
        {"kind": "word", "vocabulary": ["a"], "pattern": "letters", "specials": []},
    ],
)
def test_a_dict_that_describes_no_tokenizer(state):
    with pytest.raises(TokenizerError):
        tokenizer_from_dict(state)


# One more special token


def test_a_special_token_can_be_added_and_taken_away(tokenizer):
    masked = tokenizer.with_special(MASK)
    assert masked.vocab_size == tokenizer.vocab_size + 1
    assert masked.special_ids == {**tokenizer.special_ids, MASK: tokenizer.vocab_size}
    assert masked.end_of_text_id == tokenizer.end_of_text_id
    assert masked.encode(TEXT) == tokenizer.encode(TEXT)
    assert masked.encode(MASK) == [tokenizer.vocab_size]
    assert masked.decode([tokenizer.vocab_size]) == MASK
    assert masked.fingerprint != tokenizer.fingerprint
    assert tokenizer_from_dict(json.loads(json.dumps(masked.to_dict()))) == masked
    assert masked.with_special(MASK) is masked
    assert masked.without_special(MASK) == tokenizer
    assert tokenizer.without_special(MASK) is tokenizer
    more = masked.with_special("[CLS]")
    assert more.special_ids["[CLS]"] == tokenizer.vocab_size + 1
    assert more.without_special(MASK) is more, "the ids of others would change"


@pytest.mark.parametrize("name", ["", "a b", " "])
def test_an_added_token_needs_a_name(tokenizer, name):
    with pytest.raises(TokenizerError, match="without white space"):
        tokenizer.with_special(name)


def test_an_added_token_is_there_once():
    for added in (["[MASK]", "[MASK]"], [END_OF_TEXT]):
        with pytest.raises(TokenizerError, match="in the vocabulary already"):
            BPETokenizer(added=added)
