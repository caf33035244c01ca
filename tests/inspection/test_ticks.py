"""Anyone can read a tick."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.config import TokenizerConfig
from llm.inspection import text_labels, tick_labels, visible
from llm.inspection.fonts import default_font, font_for
from llm.inspection.ticks import markdown
from llm.tokenizers import build_tokenizer


@pytest.mark.parametrize(
    ("token", "label"),
    [
        (b" the", "·the"),
        (b"\n\n", "↵↵"),
        (b"\t\r", "⇥⏎"),
        (b"", "∅"),
        (b"\xe4\xbd", r"\xe4\xbd"),
        ("猫".encode(), "猫"),
        ("مرحبا".encode(), "مرحبا"),
        ("😀".encode(), "😀"),
        (b"\x00", "U+0000"),
        ("\u2028".encode(), "U+2028"),
        (b"a" * 20, "a" * 13 + "…"),
    ],
)
def test_a_token_as_a_label(token, label):
    assert visible(token) == label


@given(st.binary(max_size=20))
def test_a_label_is_one_printable_line_and_never_empty(token):
    label = visible(token)
    assert 0 < len(label) <= 14
    assert label.isprintable()
    assert " " not in label


def test_a_character_cut_in_two_shows_its_bytes():
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    labels = tick_labels(tokenizer, tokenizer.encode("猫 cat"))
    assert labels[-1] == "·cat"
    assert "\\x" in "".join(labels[:-1])


@pytest.mark.parametrize("label", ["·the", "↵", "⏎", "⇥", "∅", "مرحبا", "Привет", "שלום", "…"])
def test_the_font_that_comes_along_has_these(label):
    assert font_for(label, 12)[0] == label


def test_an_id_that_stands_for_nothing_is_shown_by_its_number():
    assert tick_labels(build_tokenizer(TokenizerConfig(), []), [50300]) == ["#50300"]


def test_what_no_font_has_is_shown_by_number(monkeypatch):
    monkeypatch.setattr("llm.inspection.fonts.system_fonts", lambda: ())
    label, font = font_for("a猫", 12)
    assert label == "aU+732B"
    assert font.path == default_font()


def test_a_font_of_this_machine_is_used_where_it_has_the_character(monkeypatch):
    other = str(Path(default_font()).with_name("STIXGeneral.ttf"))
    monkeypatch.setattr("llm.inspection.fonts.system_fonts", lambda: (other,))
    assert font_for("a", 12)[1].path == default_font()
    label, font = font_for("ᶁ", 12)
    assert (label, font.path, font.size) == ("ᶁ", other, 12)


def test_markdown_shows_a_label_as_it_is():
    assert markdown("<b>|*_`#") == r"&lt;b\>│\*\_\`\#"


def test_bytes_of_a_character_are_labelled_with_it():
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    ids = tokenizer.encode("a 猫!")
    labels = text_labels(tokenizer, ids)
    assert labels[0] == "a"
    assert [label.removeprefix("·").strip() for label in labels[1:-1]] == ["猫 1/3", "猫 2/3", "猫 3/3"]
    assert labels[-1] == "!"


def test_a_character_that_is_cut_off_shows_its_bytes():
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    ids = tokenizer.encode("猫")[:-1]
    assert text_labels(tokenizer, ids) == tick_labels(tokenizer, ids)
    assert text_labels(tokenizer, [50300]) == ["#50300"]


@given(st.text(max_size=30))
def test_labels_of_a_text_differ_from_those_of_tokens_only_at_parts_of_characters(text):
    tokenizer = build_tokenizer(TokenizerConfig(), [])
    ids = tokenizer.encode(text)
    labels = text_labels(tokenizer, ids)
    assert len(labels) == len(ids)
    for label, alone in zip(labels, tick_labels(tokenizer, ids), strict=True):
        assert 0 < len(label) <= 14
        assert label.isprintable()
        if "\\x" not in alone:
            assert label == alone
