import json

import pytest
import torch
from small_checkpoints import write

from llm.__main__ import main
from llm.config import GPTConfig
from llm.pretrained.vectors import NamedVectors, write_word2vec
from llm.tokenizers import CharTokenizer

WORDS = {
    "king": [1.0, 1.0, 0.0],
    "man": [0.0, 1.0, 0.0],
    "woman": [0.0, 0.0, 1.0],
    "queen": [1.0, 0.0, 1.0],
    "prince": [1.0, 0.9, 0.1],
}


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.txt"
    write_word2vec(NamedVectors(list(WORDS), torch.tensor(list(WORDS.values()))), path)
    return str(path)


def test_neighbours_and_analogies(file, capsys):
    assert main(["neighbours", "--ckpt", file, "--json", "king", "king", "-", "man", "+", "woman", "man"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["query"] for line in found] == ["king", "king - man + woman", "man"]
    assert [line["neighbours"][0]["word"] for line in found] == ["prince", "queen", "king"]
    assert found[0]["neighbours"][0]["cosine"] == pytest.approx(1.9 / (2 * (1 + 0.81 + 0.01)) ** 0.5, abs=1e-5)
    assert {word["word"] for word in found[1]["neighbours"]} == {"queen", "prince"}, "words of the query are left out"


def test_one_argument_may_hold_several_words(file, capsys):
    assert main(["neighbours", "--ckpt", file, "--top_k", "1", "king - man + woman queen"]) == 0
    assert capsys.readouterr().out.split()[:6] == ["king", "-", "man", "+", "woman", "queen"]


def test_all_can_be_asked_for(file, capsys):
    assert main(["neighbours", "--ckpt", file, "--json", "--top_k", "0", "king"]) == 0
    found = json.loads(capsys.readouterr().out)["neighbours"]
    assert sorted(word["word"] for word in found) == sorted(WORDS.keys() - {"king"})


def test_a_word_that_is_not_there_is_named_with_near_ones(file, capsys):
    assert main(["neighbours", "--ckpt", file, "king", "quen"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: 'quen' is not in the vocabulary of 5 words; near it: queen\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["king", "-"], "behind '-'"),
        (["king", "--top_k", "-1"], "top_k must be at least 1, or 0 for all, got -1"),
        (["king", "-", "+", "man"], "got '+'"),
        ([" "], "expected a word, got nothing"),
        (["king", "king - king"], "'king - king' is the zero vector, which has no direction"),
    ],
)
def test_what_has_no_neighbours_is_said_in_a_line(file, capsys, words, says):
    assert main(["neighbours", "--ckpt", file, "--ckpt", file, *words]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    (line,) = shown.err.splitlines()
    assert says in line


def test_characters_are_no_words(tmp_path, capsys):
    tokenizer = CharTokenizer.from_text("abc")
    network = GPTConfig(tokenizer.vocab_size, 4, n_layer=1, n_head=1, n_embd=4)
    path = write(tmp_path / "gpt.ckpt", network, "language", tokenizer)
    assert main(["neighbours", "--ckpt", path, "abc"]) == 1
    assert "'abc' is not in the vocabulary of 3 tokens" in capsys.readouterr().err


def test_two_tables_side_by_side(file, tmp_path, capsys):
    other = tmp_path / "other.bin"
    names = ["king", "man", "stone"]
    write_word2vec(NamedVectors(names, torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]])), other, binary=True)
    assert main(["neighbours", "--ckpt", file, "--ckpt", str(other), "--top_k", "2", "king", "queen"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "words.txt" in lines[0]
    assert "other.bin" in lines[0]
    assert lines[2].split()[::2] == ["prince", "stone"]
    assert f"{other}: 'queen' is not in the vocabulary" in lines[-1]


def test_tables_of_runs_are_told_apart_by_their_runs(tmp_path, capsys):
    words = []
    for run in ("word_vectors", "gpt"):
        path = tmp_path / "runs" / run / "version_0" / "checkpoints" / "last.txt"
        path.parent.mkdir(parents=True)
        write_word2vec(NamedVectors(list(WORDS), torch.tensor(list(WORDS.values()))), path)
        words += ["--ckpt", str(path)]
    assert main(["neighbours", *words, "king"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["word_vectors/version_0", "gpt/version_0"]


@pytest.mark.parametrize(("format", "name"), [("word2vec", "out.txt"), ("word2vec-binary", "out.bin")])
def test_export_writes_what_neighbours_reads(file, tmp_path, capsys, format, name):
    out = str(tmp_path / name)
    assert main(["export", "--ckpt", file, "--format", format, "--out", out]) == 0
    assert main(["neighbours", "--ckpt", out, "--top_k", "1", "king"]) == 0
    assert "prince" in capsys.readouterr().out
    assert main(["export", "--ckpt", file, "--format", format, "--out", out]) == 1
    assert "--overwrite" in capsys.readouterr().err
