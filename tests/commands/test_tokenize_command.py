"""`python -m llm tokenize` as a user meets it."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from one_line import error

from llm.__main__ import main
from llm.commands import tokenize as command
from llm.data import TextDataModule, TokenStore
from llm.data.tokens.tokenize import SHARD_TOKENS
from llm.tokenizers import END_OF_TEXT


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name: str, content: str | bytes) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def shell(words: list[str]) -> int:
    return main(["tokenize", "--output", "shards", *words])


def run(*words: str) -> int:
    return shell(list(words))


def test_a_pattern_of_text_files(capsys):
    write("texts/b/2.txt", "two")
    write("texts/1.txt", "one")
    assert run("--input", "texts/**/*.txt", "--tokenizer", "gpt2") == 0
    output = capsys.readouterr().out
    store = TokenStore.open("shards")
    assert store.make_tokenizer().decode(store.tokens()) == f"one{END_OF_TEXT}two"
    assert "shards: 3 token ids of 2 documents" in output
    assert "python train.py fit --data.corpus shards" in output
    assert TextDataModule("shards").train_tokens.tolist() == store.tokens()[:2].tolist()


@pytest.mark.parametrize("kind", ["char", "word"])
def test_records_of_several_files_and_a_learned_vocabulary(kind):
    write("a.jsonl", '{"body": "one two"}\n{"body": "three"}\n')
    write("b.jsonl.gz", gzip.compress(json.dumps({"body": "four"}).encode()))
    write("c.txt", "five")
    words = ["--input", "a.jsonl", "b.jsonl.gz", "c.txt", "--field", "body", "--tokenizer", kind]
    assert run(*words) == 0
    store = TokenStore.open("shards")
    text = store.make_tokenizer().decode(store.tokens())
    assert text.split(END_OF_TEXT) == ["one two", "three", "four", "five"] or kind == "word"
    assert "".join(text.split()) == END_OF_TEXT.join(["onetwo", "three", "four", "five"])
    assert store.n_documents == 4


def test_a_million_line_breaks_in_a_row():
    text = "a" + "\n" * 1_000_100 + "b"
    write("long.txt", text)
    assert run("--input", "long.txt", "--tokenizer", "gpt2") == 0
    store = TokenStore.open("shards")
    assert store.make_tokenizer().decode(store.tokens()) == text


def test_another_field_is_another_text(capsys):
    write("a.jsonl", '{"x": "one", "y": "two"}')
    assert run("--input", "a.jsonl", "--field", "x") == 0
    assert "already holds the ids of another text" in error(
        capsys, shell, "--input", "a.jsonl", "--field", "y", alone=True
    )


def test_bad_input_is_one_line(capsys):
    write("bad.jsonl", '{"text": "one"}\n{"text": "two"')
    write("half.jsonl", '{"text": "\\ud800"}')
    write("bad.txt", b"caf\xe9")
    for words, expected in (
        (["--input", "bad.jsonl"], "'bad.jsonl', line 2: not JSON"),
        (["--input", "bad.jsonl", "--field", "body"], "'bad.jsonl', line 1: no field 'body'; the record has text"),
        (["--input", "bad.jsonl", "--tokenizer", "char"], "'bad.jsonl', line 2: not JSON"),
        (["--input", "half.jsonl"], "'half.jsonl', line 1: the text is not valid Unicode at character 0"),
        (["--input", "half.jsonl", "--tokenizer", "char"], "'half.jsonl', line 1: the text is not valid Unicode"),
        (["--input", "bad.txt"], "'bad.txt' is not UTF-8 text: byte 0xe9 at offset 3"),
        (["--input", "no*.txt"], "no file matches the pattern 'no*.txt'"),
        (["--input", "bad.txt", "--tokenizer", "nonsense"], "unknown tokenizer 'nonsense'"),
        (["--input", "bad.txt", "--shard_tokens", "0"], "shard_tokens must be at least 1, got 0"),
        (["--input", "bad.txt", "--tokenizer", ""], "tokenizer is an empty name"),
        (["--input", "bad.txt", "--output", " "], "output is an empty name"),
        (["--input", "bad.txt", "--threads", "0"], "threads must be at least 1, got 0"),
    ):
        assert expected in error(capsys, shell, *words, alone=True), words
        assert not list(Path().glob("shards/*")), "nothing is left behind"


def test_an_output_that_cannot_be_written(capsys):
    write("a.txt", "one")
    write("shards", "a file")
    assert "'shards'" in error(capsys, shell, "--input", "a.txt", alone=True)
    assert Path("shards").read_text() == "a file"


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(capsys, monkeypatch):
    write("a.txt", "some words " * 100_000)
    words = ["--input", "a.txt", "--shard_tokens", "1000"]
    real, written = os.fsync, []

    def full(file):
        written.append(file)
        if len(written) > 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file)

    monkeypatch.setattr(os, "fsync", full)
    assert "can't write 'shards': No space left on device; choose another folder, or fix" in error(
        capsys, shell, *words, alone=True
    )
    assert not list(Path("shards").glob("*.tmp"))
    monkeypatch.setattr(os, "fsync", real)
    assert run(*words) == 0


def test_neither_torch_nor_lightning_is_imported():
    write("a.txt", "one")
    code = (
        "import sys; from llm.__main__ import main; main(sys.argv[1:]);"
        "print({'torch', 'lightning', 'matplotlib'} & set(sys.modules))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, "tokenize", "--input", "a.txt", "--output", "shards"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert output.splitlines()[-1] == "set()"


def test_the_help_tells_the_size_of_a_shard():
    assert command.SHARD_TOKENS == SHARD_TOKENS
