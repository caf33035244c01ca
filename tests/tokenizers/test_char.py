import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers import END_OF_TEXT, CharTokenizer, build_tokenizer


@given(st.text())
@example("你好，世界\r\n")
@example("مرحبا بالعالم")
@example("👩‍👩‍👧‍👦 é é")
@example("a<|endoftext|>b<|endof")
@pytest.mark.parametrize("specials", [(), (END_OF_TEXT,)])
def test_any_text_survives(specials, text):
    tokenizer = build_tokenizer(TokenizerConfig("char", specials=specials), [text])
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_vocabulary_is_the_sorted_characters():
    tokenizer = CharTokenizer.from_text("banana!")
    assert tokenizer.vocab_size == 4
    assert tokenizer.encode("!abn") == [0, 1, 2, 3]
    assert tokenizer.encode("") == []


def test_special_tokens_are_whole():
    tokenizer = build_tokenizer(TokenizerConfig("char"), ["ab"])
    assert tokenizer.special_ids == {END_OF_TEXT: 2}
    assert tokenizer.encode("a<|endoftext|>b") == [0, 2, 1]


def test_unknown_character_is_named_with_its_place():
    with pytest.raises(TokenizerError, match=r"'x' at line 2, column 3;.*<\|unk\|>"):
        CharTokenizer.from_text("ab\n").encode("ab\nabx")


def test_unknown_character_is_not_looked_for_inside_special_tokens():
    with pytest.raises(TokenizerError, match="'e' at line 1, column 15"):
        CharTokenizer("ab", (END_OF_TEXT,)).encode("a<|endoftext|>e")


@pytest.mark.parametrize("unknown", ["<|unk|>", "[UNK]"])
def test_unknown_characters_become_the_unknown_token(unknown):
    tokenizer = CharTokenizer("ab", (unknown,))
    assert tokenizer.encode("a猫\nb") == [0, 2, 2, 1]


@pytest.mark.parametrize(
    ("vocabulary", "specials", "message"),
    [
        (["a", "bc"], (), "one character"),
        (["a", ""], (), "one character"),
        ("aba", (), "'a' .*twice"),
        ("ab", ("a",), "'a' .*twice"),
        ("ab", ("x y",), "'x y'"),
    ],
)
def test_bad_vocabularies(vocabulary, specials, message):
    with pytest.raises(TokenizerError, match=message):
        CharTokenizer(vocabulary, specials)
