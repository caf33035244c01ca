"""`python -m llm tokenizer` as a user meets it."""

import json
from pathlib import Path

import pytest

from llm.__main__ import main
from llm.config import TokenizerConfig
from llm.data import TextDataModule, TokenStore
from llm.pretrained import read_tokenizer
from llm.pretrained.written_tokenizer import write_tokenizer
from llm.tokenizers import END_OF_TEXT

TEXT = "The cat sat on the mat.\nThe cat sat.\n" * 20


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "tiktoken"))
    Path("cats.txt").write_text(TEXT)


def train(*words):
    return main(["tokenizer", "train", "--input", "cats.txt", "--output", "tok.json", *words])


def test_a_vocabulary_is_learned_kept_and_used(capsys):
    assert train("--vocab_size", "270", "--pattern", "gpt4", "--specials", END_OF_TEXT, "<pad>") == 0
    output = capsys.readouterr().out
    assert "tok.json: 270 tokens" in output
    assert "fit --data.corpus cats.txt --data.tokenizer.checkpoint tok.json" in output
    tokenizer = read_tokenizer("tok.json")
    assert (tokenizer.vocab_size, tokenizer.pattern) == (270, "gpt4")
    assert tokenizer.special_ids == {END_OF_TEXT: 268, "<pad>": 269}
    data = TextDataModule("cats.txt", TokenizerConfig(checkpoint="tok.json"), context_length=4, cache_dir="cache")
    assert data.tokenizer == tokenizer
    assert main(["tokenize", "--input", "cats.txt", "--output", "shards", "--tokenizer", "tok.json"]) == 0
    store = TokenStore.open("shards")
    assert store.make_tokenizer() == tokenizer
    assert store.n_tokens == len(tokenizer.encode(TEXT))


def test_tokenize_learns_one():
    words = ["--input", "cats.txt", "--output", "shards", "--tokenizer", "bpe"]
    assert main(["tokenize", *words, "--vocab_size", "262"]) == 0
    assert TokenStore.open("shards").make_tokenizer().vocab_size == 262


def test_what_is_there_is_kept(capsys):
    assert train("--vocab_size", "260") == 0
    before = Path("tok.json").read_text()
    assert train("--vocab_size", "262") == 1
    assert "is there already" in capsys.readouterr().err
    assert Path("tok.json").read_text() == before
    assert train("--vocab_size", "262", "--overwrite") == 0
    assert len(json.loads(Path("tok.json").read_text())["vocabulary"]) == 261


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vocab_size", "10"], "vocab_size must be at least 257"),
        (["--vocab_size", "300", "--pattern", "gpt9"], "must be one of gpt2, gpt4; got 'gpt9'"),
        (["--vocab_size", "300", "--output", "tok.txt"], "must be a file that ends in .json"),
        (["--vocab_size", "300", "--input", "dogs.txt"], "no corpus 'dogs.txt'"),
    ],
)
def test_what_can_not_be_is_one_line(capsys, words, message):
    assert train(*words) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not Path("tok.json").exists()


def test_the_pieces_of_a_text_and_a_comparison(capsys):
    train("--vocab_size", "270")
    capsys.readouterr()
    assert main(["tokenizer", "show", "--text", "The cat\nsat é", "--tokenizer", "tok.json"]) == 0
    pieces, *table = capsys.readouterr().out.split("\n\n")
    assert pieces.startswith("The|·cat|↵\n")
    assert pieces.endswith(r"|\xc3|\xa9")
    rows = {line.split()[0]: line.split()[1:] for line in table[0].strip().splitlines()[1:]}
    assert list(rows) == ["tok.json", "gpt2", "characters"], "the others would have to be downloaded"
    assert rows["characters"] == ["10", "13", "1.08"]
    assert rows["gpt2"][0] == "50,257"
    assert rows["tok.json"][0] == "270"


def test_colours_and_a_file_longer_than_what_is_shown(capsys):
    Path("long.txt").write_text("cat " * 1000)
    assert main(["tokenizer", "show", "--file", "long.txt", "--color", "always"]) == 0
    output = capsys.readouterr().out
    assert output.count("\x1b[0m") == 501
    assert len(set(output.split("\x1b[30;48;5;")[1:3])) == 2
    assert "... and 2,000 more characters" in output
    assert "|" not in output


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", {"added_tokens_decoder": {"300": {"special": True}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {"content": "<a>", "special": True}}}),
        ("tokenizer_config.json", {"added_tokens_decoder": ["<a>"]}),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": [3]}, "added_tokens": [{}]}),
    ],
)
def test_damaged_tokenizer_files_are_one_line(capsys, name, content):
    train("--vocab_size", "260")
    Path("folder").mkdir()
    write_tokenizer(read_tokenizer("tok.json"), Path("folder"), 64)
    Path("folder", name).write_text(json.dumps(content))
    capsys.readouterr()
    assert main(["tokenizer", "show", "--text", "a", "--tokenizer", "folder"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: the tokenizer in 'folder' is damaged")


def test_a_folder_without_a_tokenizer_is_told_so_and_not_of_weights(capsys):
    Path("empty").mkdir()
    Path("alone").mkdir()
    assert main(["tokenizer", "show", "--text", "a", "--tokenizer", "empty"]) == 1
    said = capsys.readouterr().err
    assert "'empty' holds no tokenizer: expected tokenizer.json, " in said
    assert said.strip().endswith("found nothing")
    train("--vocab_size", "260", "--output", "alone/tok.json")
    assert main(["tokenizer", "show", "--text", "a", "--tokenizer", "alone"]) == 1
    assert "give the file in it, 'alone/tok.json'" in capsys.readouterr().err
