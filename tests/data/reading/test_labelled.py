"""Texts with labels out of files: columns, quotes, line breaks, byte order marks, and what is wrong with them."""

from __future__ import annotations

import hashlib
import io
import json
import urllib.error
import urllib.request
import zipfile

import pytest

from llm.data.reading import sms_spam
from llm.data.reading.labelled import read_labelled
from llm.data.reading.messages import MESSAGES, messages
from llm.errors import DataError

ROWS = [("a walk, in the park", "out"), ('she said "yes"\nand left', "in"), ("tea", "in")]


def pairs(*arguments, **options):
    return [(row.text, row.label) for row in read_labelled(*map(str, arguments), **options)]


def test_csv_has_quotes_line_breaks_and_a_byte_order_mark(tmp_path):
    path = tmp_path / "mails.csv"
    path.write_bytes(
        b'\xef\xbb\xbftext,label\r\n"a walk, in the park",out\r\n"she said ""yes""\nand left",in\r\n\r\ntea,in\r\n'
    )
    assert pairs(path) == ROWS
    assert [row.place for row in read_labelled(str(path))] == [f"{str(path)!r}, line {n}" for n in (2, 3, 6)]


def test_a_byte_order_mark_is_part_of_no_name_and_no_label(tmp_path):
    path = tmp_path / "mails.csv"
    path.write_bytes(b"\xef\xbb\xbftext,id,label\r\none,1,a\r\ntwo,2,b\r\n")
    assert pairs(path) == [("one", "a"), ("two", "b")]
    path = tmp_path / "mails.tsv"
    path.write_bytes(b"\xef\xbb\xbfham\tone\nspam\ttwo\nham\tthree\n")
    assert pairs(path) == [("one", "ham"), ("two", "spam"), ("three", "ham")]


def test_a_spreadsheet_may_separate_by_semicolons(tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text("label;text\nout;a walk, in the park\nin;tea\n")
    assert pairs(path) == [("a walk, in the park", "out"), ("tea", "in")]


def test_a_quote_in_tab_separated_text_is_a_character(tmp_path):
    path = tmp_path / "SMSSpamCollection"
    path.write_text('ham\t"Ok lar\nham\tU dun say so\nspam\tWIN a prize"\n')
    assert pairs(path) == [('"Ok lar', "ham"), ("U dun say so", "ham"), ('WIN a prize"', "spam")]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["text\tlabel", "one\ta", "two\tb", "three\ta"], ["a", "b", "a"]),
        (["Label\tMessage", "a\tone", "b\ttwo"], ["a", "b"]),
        (["x\ty", "one\ta", "two\tb", "three\ta"], ["a", "b", "a"]),  # the column with fewer values is the label
        (["a\tone", "b\ttwo", "a\tthree", "a\tfour"], ["a", "b", "a", "a"]),  # no names: the first value is a label
        (["id\ttext\tlabel", "1\tone\ta", "2\ttwo\tb"], ["a", "b"]),
    ],
)
def test_the_columns_are_guessed(tmp_path, lines, expected):
    path = tmp_path / "mails.tsv"
    path.write_text("\n".join(lines) + "\n")
    assert [label for _, label in pairs(path)] == expected
    assert {text for text, _ in pairs(path)} <= {"one", "two", "three", "four"}


def test_the_columns_are_those_that_are_named(tmp_path):
    path = tmp_path / "mails.csv"
    path.write_text("id,subject,folder\n1,one,a\n2,two,b\n")
    assert pairs(path, text_column="subject", label_column="folder") == [("one", "a"), ("two", "b")]
    path.write_text("subject,folder\none,a\ntwo,b\n")
    assert pairs(path, label_column="subject") == [("a", "one"), ("b", "two")]


def test_json_lines_and_numbers_as_labels(tmp_path):
    path = tmp_path / "mails.jsonl"
    path.write_text("\n".join(json.dumps({"sentence": text, "y": len(label) - 2}) for text, label in ROWS))
    assert pairs(path) == [(text, str(len(label) - 2)) for text, label in ROWS]


def test_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    from pyarrow import parquet, table

    path = tmp_path / "mails.parquet"
    parquet.write_table(table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}), path)
    assert pairs(path) == ROWS


def test_a_folder_for_each_label(tmp_path):
    for name, text in (("in/a", "tea\n"), ("in/deep/b", "milk"), ("out/c", "walk")):
        file = tmp_path / f"{name}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert [(text.strip(), label) for text, label in pairs(tmp_path)] == [
        ("tea", "in"),
        ("milk", "in"),
        ("walk", "out"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a.csv", "text,label\none,a\n", {"text_column": "txt"}, "no column 'txt' .* did you mean 'text'"),
        ("a.csv", "text,label\none,a\n", {"label_column": "Lable"}, "no column 'Lable' .* did you mean 'label'"),
        ("a.csv", "text,label\none,a\n", {"label_column": "text", "text_column": "text"}, "are both 'text'"),
        ("a.csv", "a,b,c\n1,2,3\n", {}, r"which columns of .* are text and label\? It has a, b, c"),
        ("a.csv", "a,b,text\n1,2,3\n", {"text_column": "text"}, "give --data.label_column"),
        ("a.csv", "text\none\n", {}, "has one column"),
        ("a.csv", "text,label\none,a\ntwo,b,c\n", {}, "line 3: expected 2 columns as in the rows before, got 3"),
        ("a.csv", 'text,label\n"one,a\ntwo,b\n', {}, "line 2: not CSV.*is a quote missing"),
        ("a.csv", "text,label\none,\n", {}, "line 2: the label is empty"),
        ("a.csv", b"text,label\none,a\ntw\xff,b\n", {}, "line 3: byte 0xff is not UTF-8"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "y", "label": "1"}', {}, "line 2: .*'1' is a string, and 1 "),
        ("a.jsonl", '{"text": "x", "label": 1.5}', {}, "line 1: a label is a string or an integer, got '1.5'"),
        ("a.jsonl", '{"text": "x", "label": null}', {}, "line 1: a label is a string or an integer"),
        ("a.jsonl", '{"text": 3, "label": "x"}', {}, "line 1: the text must be a string, got '3'"),
        ("a.jsonl", '{"text": "x", "label": "a"}\n{"text": "y"}', {}, "line 2: no field 'label'"),
        ("a.jsonl", '["x"]', {}, "line 1: expected a record"),
        ("a.docx", "x", {}, "no table that can be read; give .csv, .tsv, .jsonl or .parquet"),
        ("a.csv", "", {}, "holds no texts with labels"),
    ],
)
def test_what_is_wrong_is_a_line_that_says_where(tmp_path, name, content, options, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        read_labelled(str(path), **options)


def test_a_corpus_that_is_not_there(tmp_path):
    (tmp_path / "mails.csv").write_text("text,label\none,a\n")
    with pytest.raises(DataError, match=r"did you mean 'mails\.csv'"):
        read_labelled(str(tmp_path / "mail.csv"))
    with pytest.raises(DataError, match="has no folders in it"):
        read_labelled(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no \*\.txt file"):
        read_labelled(str(tmp_path))


def test_generated_messages_are_the_same_ones_with_wordings_of_their_own():
    splits = [messages(name) for name in MESSAGES]
    assert splits == [messages(name) for name in MESSAGES]
    texts = [text for split in splits for text, _ in split]
    assert len(set(texts)) == len(texts)
    for split in splits:
        labels = [label for _, label in split]
        assert {labels.count(label) for label in set(labels)} == {len(labels) // 4}


def fetched(monkeypatch, content):
    def urlopen(url, timeout):
        assert url == sms_spam.URL
        if content is None:
            raise urllib.error.URLError("no network")
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def archive(text, name="SMSSpamCollection"):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr(name, text)
    return stream.getvalue()


def test_sms_spam_is_fetched_once_and_held_to_its_checksum(tmp_path, monkeypatch):
    text = "ham\tOk\nspam\tWIN\nham\tSee you\n"
    monkeypatch.setattr(sms_spam, "SHA256", hashlib.sha256(text.encode()).hexdigest())
    fetched(monkeypatch, archive(text))
    assert len(pairs("sms-spam", data_dir=tmp_path)) == 3
    fetched(monkeypatch, None)
    assert len(pairs("sms-spam", data_dir=tmp_path)) == 3
    (tmp_path / "sms-spam" / "SMSSpamCollection").write_text("ham\tOther\n")
    with pytest.raises(DataError, match="is not the SMS Spam Collection: expected SHA-256"):
        read_labelled("sms-spam", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            None,
            r"can't download the SMS Spam Collection .*put the file from https://.* at .*SMSSpamCollection' by hand",
        ),
        (archive("ham\tx\n"), r"is damaged: expected SHA-256 .* by hand"),
        (archive("x", "other"), "is not the archive"),
        (b"<html>", "is not the archive"),
    ],
)
def test_where_to_put_sms_spam_is_said(tmp_path, monkeypatch, content, message):
    fetched(monkeypatch, content)
    with pytest.raises(DataError, match=message):
        read_labelled("sms-spam", data_dir=tmp_path)
    assert not list(tmp_path.rglob("SMS*"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text\nhello\nbye\n", "has one column, 'text', and needs two: the text and its label"),
        ("id,text\n1,a\n2,b\n3,c\n", "has no column of labels: each value of 'id' comes once"),
        ("a,b\nc,d\ne,f\ng,h\n", "has no column of labels"),
    ],
)
def test_a_table_without_labels(tmp_path, content, said):
    path = tmp_path / "texts.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=said):
        read_labelled(path)


def test_the_column_beside_that_of_the_text_is_the_label(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("mood,text\nglad,hm\nsad,hm hm\nglad,hm hm hm\nwell,hm\nbad,hm\n")
    assert [row.label for row in read_labelled(path)] == ["glad", "sad", "glad", "well", "bad"]
