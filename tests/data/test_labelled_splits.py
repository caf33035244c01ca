"""Splits of labelled texts: each text once, in one split, and every label with its fraction."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.labelled import counts, distinct, divide, encode_text, text_key, undersample, without
from llm.data.reading.labelled import LabelledText
from llm.errors import TokenizerError
from llm.tokenizers import CharTokenizer, WordTokenizer

rows = st.lists(st.sampled_from("aaaabbc"), min_size=3, max_size=60).map(
    lambda labels: [LabelledText(f"text {n}", label, str(n)) for n, label in enumerate(labels)]
)


@given(rows=rows, fractions=st.lists(st.floats(0, 0.45), min_size=2, max_size=2), seed=st.integers(0, 9))
def test_the_parts_are_all_rows_and_every_label_has_its_fraction(rows, fractions, seed):
    parts = divide(rows, fractions, seed)
    assert sorted(row for part in parts for row in part) == sorted(rows)
    assert parts == divide(rows, fractions, seed)
    for label, total in counts(rows).items():
        *held_out, left = (sum(row.label == label for row in part) for part in parts)
        assert left >= 1
        for count, fraction in zip(held_out, fractions, strict=True):
            assert abs(count - total * fraction) <= 1


@given(rows=rows, seed=st.integers(0, 9))
def test_undersampling_keeps_as_many_of_each_as_the_rarest_has(rows, seed):
    kept = undersample(rows, seed)
    assert set(counts(kept).values()) == {min(counts(rows).values())}
    assert kept == [row for row in rows if row in set(kept)]


def test_another_seed_divides_otherwise():
    rows = [LabelledText(f"text {n}", "ab"[n % 2], "") for n in range(100)]
    assert divide(rows, [0.2, 0.2], 0) != divide(rows, [0.2, 0.2], 1)
    assert undersample(rows[:75], 0) != undersample(rows[:75], 1)


def test_a_text_counts_once_whatever_its_white_space_and_case():
    rows = [
        LabelledText("Call me", "ham", "1"),
        LabelledText(" call  ME\n", "ham", "2"),
        LabelledText("", "ham", "3"),
        LabelledText("WIN", "spam", "4"),
        LabelledText("win", "ham", "5"),
        LabelledText(" \t", "spam", "6"),
        LabelledText("Call you", "spam", "7"),
    ]
    found = distinct(rows)
    assert [row.place for row in found.rows] == ["1", "7"]
    assert found.repeated == 2
    assert "2 rows have no text and are left out; the first is 3" in found.notes[0]
    assert "1 text has several labels and is left out; the first is 'WIN', 'spam' at 4 and 'ham' at 5" in found.notes[1]


def test_what_is_held_out_is_taken_from_training():
    train = [LabelledText(text, "x", "") for text in ("one", "Two ", "three")]
    assert [row.text for row in without(train, [LabelledText("two", "y", ""), LabelledText("four", "y", "")])] == [
        "one",
        "three",
    ]
    assert Counter(map(text_key, ["A  b", "a b", "ab"])) == {"a b": 2, "ab": 1}


def test_a_text_is_encoded_up_to_the_context_and_an_empty_one_refused():
    tokenizer = CharTokenizer("abc ")
    assert encode_text(tokenizer, "  abcab ", 3) == [0, 1, 2]
    with pytest.raises(TokenizerError, match="the text is empty"):
        encode_text(tokenizer, " \n ", 3)
    with pytest.raises(TokenizerError, match="nothing in the text '!!!' is a token"):
        encode_text(WordTokenizer(["good"], "lowercase"), " !!! ", 3)


def test_what_a_model_expects_before_a_text_is_there_once():
    tokenizer = CharTokenizer("abc^")
    tokenizer.prefix_ids = (3,)
    assert encode_text(tokenizer, " abc", 3) == [3, 0, 1]
    assert encode_text(tokenizer, "^ab", 3) == [3, 0, 1]
    assert encode_text(tokenizer, "^", 3) == [3]


def test_of_no_rows_none_are_kept():
    assert undersample([]) == []
