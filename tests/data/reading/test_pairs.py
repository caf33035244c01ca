import gzip
import json

import pytest

from llm.data.reading.pairs import Pair, read_pairs
from llm.errors import ConfigError, DataError


@pytest.fixture
def write(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.write_bytes(text.encode())
        return str(path)

    return write


def test_two_files_line_by_line(write):
    # The characters between "b" and "c" end a line for `str.splitlines`, and not for other programs.
    files = [write("a.zh", "\ufeff你好 \r\n\r\nb\u2028\x85c\n"), write("a.en", "hello\n\n d")]
    assert read_pairs(files) == [Pair("你好", "hello"), Pair("b\u2028\x85c", "d")]


def test_a_table(write):
    table = write("a.tsv", "\ufeffhi\t你好\tCC-BY\n\nbye\t再见\tCC-BY\n")
    assert read_pairs(table) == [Pair("hi", "你好"), Pair("bye", "再见")]
    assert read_pairs(table, [2, 1]) == read_pairs(table, ["2", "1"]) == [Pair("你好", "hi"), Pair("再见", "bye")]


def test_json_lines(write, tmp_path):
    records = [{"source": "a", "target": "b", "zh": "甲"}, {"source": "c\nd", "target": "e", "zh": "乙"}]
    text = "\n".join(json.dumps(record) for record in records)
    path = write("a.jsonl", text)
    assert read_pairs(path) == [Pair("a", "b"), Pair("c\nd", "e")]
    assert read_pairs(path, ["zh", "target"]) == [Pair("甲", "b"), Pair("乙", "e")]
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    assert read_pairs(str(tmp_path / "a.jsonl.gz")) == read_pairs(path)


@pytest.mark.parametrize(
    ("source", "target", "found"),
    [
        ("a\nb\nc\n", "x\n", "has 3 lines and '.*b.txt' has 1: line 2 of '.*a.txt', 'b', is the first without"),
        ("a\n", "x\ny", "has 1 line and '.*b.txt' has 2: line 2 of '.*b.txt', 'y', is the first without a partner"),
        ("a\n\nc\n", "x\ny\nz\n", r"line 2 of .*a.txt' and .*b.txt': the source of 'y' is empty"),
        ("a\nb\n", "x\n  \n", r"line 2 of .*: the target of 'b' is empty; add it, or remove both"),
    ],
)
def test_sentences_without_a_partner(write, source, target, found):
    with pytest.raises(DataError, match=found):
        read_pairs([write("a.txt", source), write("b.txt", target)])


@pytest.mark.parametrize(
    ("name", "text", "fields", "error", "found"),
    [
        ("a.tsv", "a\tb\nc\n", None, DataError, r"line 2: expected at least 2 columns .* found 1 in 'c'"),
        ("a.tsv", "a\tb\n\tc\n", None, DataError, r"line 2: the source of 'c' is empty"),
        ("a.tsv", "a\tb\n", ["x", "y"], ConfigError, "numbers of columns, counted from 1"),
        ("a.tsv", "a\tb\n", [0, 1], ConfigError, "counted from 1"),
        ("a.tsv", "a\tb\n", [1], ConfigError, "fields must be two"),
        ("a.jsonl", '{"source": "a"}\n', None, DataError, "line 1: no field 'target'"),
        ("a.jsonl", '{"source": "", "target": ""}\n', None, DataError, "hold no pairs"),
        ("a.tsv", "\n", None, DataError, "is empty"),
    ],
)
def test_bad_files(write, name, text, fields, error, found):
    with pytest.raises(error, match=found):
        read_pairs(write(name, text), fields)


def test_bad_names(write):
    with pytest.raises(DataError, match="can't read 'nowhere"):
        read_pairs("nowhere.tsv")
    with pytest.raises(DataError, match="can't read 'nowhere"):
        read_pairs("nowhere.jsonl")
    with pytest.raises(ConfigError, match="one file of pairs, or two files; got 3"):
        read_pairs(["a", "b", "c"])
    with pytest.raises(ConfigError, match="leave fields out"):
        read_pairs(["a", "b"], [1, 2])
