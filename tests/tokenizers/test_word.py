import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers import END_OF_TEXT, PATTERNS, WordTokenizer, build_tokenizer, split_words

SPECIALS = (END_OF_TEXT, "<|unk|>")


def test_patterns_are_those_of_the_notes(figures):
    golden = figures["word_split"]
    assert {name: PATTERNS[name].pattern for name in ("with_colon", "without_colon")} == {
        "with_colon": golden["pattern_with_colon"],
        "without_colon": golden["pattern_without_colon"],
    }


def test_opening_words(figures, opening):
    golden = figures["word_split"]["first_30"]
    words = split_words(opening + " in")
    assert len(golden) == 30
    assert words == golden
    assert split_words(opening + " in", "without_colon") == golden


@pytest.mark.parametrize("pattern", ["with_colon", "without_colon"])
def test_counts_over_the_whole_text(figures, verdict, pattern):
    golden = figures["word_split"]
    assert len(split_words(verdict, pattern)) == golden[f"tokens_{pattern}"]
    assert split_words(verdict, pattern)[:30] == golden["first_30"]
    assert WordTokenizer.from_text(verdict, pattern).vocab_size == golden[f"vocabulary_{pattern}"]


def test_vocabulary_of_the_whole_text(figures, verdict):
    golden = figures["word_split"]
    strict = WordTokenizer.from_text(verdict)
    entries = golden["first_vocabulary_entries"]
    assert [strict.token(token_id) for token_id in range(len(entries))] == entries

    tokenizer = build_tokenizer(TokenizerConfig("word", pattern="without_colon"), [verdict])
    assert tokenizer.vocab_size == golden["vocabulary_without_colon_and_two_specials"]
    last = golden["last_vocabulary_entries_with_specials"]
    assert {token: tokenizer.encode(token) for token in last} == {token: [i] for token, i in last.items()}


def test_strict_figures(figures, verdict):
    golden = figures["word_tokenizer_strict"]
    tokenizer = WordTokenizer(WordTokenizer.from_text(verdict).vocabulary, "without_colon")
    assert tokenizer.encode(golden["text"]) == golden["ids"]
    assert tokenizer.decode(golden["ids"]) == golden["decoded"]


def test_figures_with_specials(figures, verdict):
    golden = figures["word_tokenizer_with_specials"]
    tokenizer = WordTokenizer.from_text(verdict, "without_colon", SPECIALS)
    assert tokenizer.encode(golden["text"]) == golden["ids"]
    assert tokenizer.decode(golden["ids"]) == golden["decoded"]


def test_decoding_joins_as_the_notes_do(figures):
    strict, lenient = figures["word_tokenizer_strict"], figures["word_tokenizer_with_specials"]
    tokenizer = WordTokenizer.from_text(strict["text"], "without_colon")
    assert tokenizer.decode(tokenizer.encode(strict["text"])) == strict["decoded"]

    known = ", do you like tea? In the sunlit terraces of the ."
    tokenizer = WordTokenizer.from_text(known, "without_colon", SPECIALS)
    assert tokenizer.decode(tokenizer.encode(lenient["text"])) == lenient["decoded"]


@given(st.lists(st.sampled_from([*""",.?!"()':;_-""", "--", "word", "猫", "<|endoftext|>"])))
def test_decoding_is_the_notes_substitution(pieces):
    tokenizer = WordTokenizer([*""",.?!"()':;_-""", "--", "word", "猫"], specials=(END_OF_TEXT,))
    ids = [tokenizer.encode(piece)[0] for piece in pieces]
    assert tokenizer.decode(ids) == re.sub(r"""\s+([,.?!"()'])""", r"\1", " ".join(pieces))


@given(st.text(), st.sampled_from(sorted(PATTERNS)))
@example("它说:“你好”; مرحبا, 'world' -- 🙂!\n\n(end)", "with_colon")
@example("a<|endoftext|>b <|unk|>", "without_colon")
def test_decode_then_encode_is_stable(text, pattern):
    tokenizer = build_tokenizer(TokenizerConfig("word", pattern=pattern), [text])
    ids = tokenizer.encode(text)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids


@given(st.text())
def test_white_space_alone_is_lost(text):
    assert "".join(split_words(text)) == "".join(text.split())


def test_strict_names_the_piece_and_its_place():
    tokenizer = WordTokenizer.from_text("the cat sat, the dog ran")
    with pytest.raises(TokenizerError, match=r"'mouse' at line 2, column 5;.*<\|unk\|>"):
        tokenizer.encode("the cat,\nthe mouse sat")


def test_strict_reports_a_whole_piece_not_a_part_of_another_word():
    tokenizer = WordTokenizer.from_text("catalogue", specials=(END_OF_TEXT,))
    with pytest.raises(TokenizerError, match="'cat' at line 1, column 24"):
        tokenizer.encode("catalogue<|endoftext|> cat")


@pytest.mark.parametrize("unknown", ["<|unk|>", "[UNK]"])
def test_unknown_pieces_become_the_unknown_token(unknown):
    tokenizer = WordTokenizer.from_text("a b", specials=(unknown,))
    assert tokenizer.encode("a mouse b") == [0, tokenizer.special_ids[unknown], 1]


def test_special_tokens_are_numbered_last_and_found_without_spaces_around_them():
    tokenizer = WordTokenizer.from_text("b a", specials=SPECIALS)
    assert tokenizer.special_ids == {END_OF_TEXT: 2, "<|unk|>": 3}
    assert tokenizer.end_of_text_id == 2
    assert tokenizer.encode("a<|endoftext|>b") == [0, 2, 1]


def test_eos_ends_a_text_too():
    assert WordTokenizer.from_text("a", specials=("[PAD]", "[EOS]")).end_of_text_id == 2
    assert WordTokenizer.from_text("a").end_of_text_id is None


def test_vocabulary_of_several_texts():
    tokenizer = build_tokenizer(TokenizerConfig("word", specials=()), ["b a", "c a"])
    assert tokenizer.encode("a b c") == [0, 1, 2]
    assert tokenizer.vocab_size == 3


@pytest.mark.parametrize(
    ("vocabulary", "specials", "message"),
    [
        (["a", "b", "a"], (), "'a' .*twice"),
        (["a", "<s>"], ("<s>",), "'<s>' .*twice: as a piece of the text and as a special token; take it out"),
        (["a", ""], (), "empty"),
        (["a"], ("end of text",), "'end of text'"),
        (["a"], ("",), "white space"),
    ],
)
def test_bad_vocabularies(vocabulary, specials, message):
    with pytest.raises(TokenizerError, match=message):
        WordTokenizer(vocabulary, specials=specials)


def test_bad_pattern():
    with pytest.raises(TokenizerError, match=r"with_colon, without_colon, lowercase; got 'letters'"):
        WordTokenizer(["a"], "letters")
