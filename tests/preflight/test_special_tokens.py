"""Special tokens in the text itself are said before a run."""

from pathlib import Path

import numpy as np
import pytest

from llm.cli.main import main
from llm.tokenizers import END_OF_TEXT

REPOSITORY = Path(__file__).parents[2]
TINY = ["--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.context_length=8"]


@pytest.fixture
def hints(tmp_path, monkeypatch, capsys):
    """What a preflight hints at about special tokens in the text."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def run(*words):
        words = ["fit", *TINY, "--data.batch_size=2", "--preflight", *words]
        assert main(words, default_config=REPOSITORY / "configs" / "default.yaml") == 0
        return [line for line in capsys.readouterr().err.splitlines() if "in the text itself" in line]

    return run


@pytest.mark.parametrize("kind", [["gpt2"], ["char"], ["bpe", "--data.tokenizer.vocab_size=300"]])
def test_an_end_of_text_in_the_text_is_counted_and_those_between_files_are_not(hints, kind):
    Path("a.txt").write_text(f"One story.{END_OF_TEXT}Another one.{END_OF_TEXT}" + "And more of it. " * 40)
    Path("b.txt").write_text("A file of its own.\n" * 20)
    words = ["--data.corpus=[a.txt, b.txt]", f"--data.tokenizer.kind={kind[0]}", *kind[1:]]
    (hint,) = hints(*words)
    assert f"{END_OF_TEXT} occurs 2 times in the text itself" in hint
    assert "--data.special_tokens as_text" in hint
    assert hints(*words, "--data.special_tokens=as_text") == []
    Path("a.txt").write_text("One story. " * 40)
    assert hints(*words) == []


def test_of_raw_token_ids_nobody_knows_where_documents_begin(hints):
    np.full(400, 50256, "<u2").tofile("train.bin")
    assert hints("--data.corpus=train.bin") == []


def test_other_special_tokens_are_counted_too_and_unknown_words_are_not(hints):
    Path("a.txt").write_text("One <|im_end|> story. " * 40)
    words = ["--data.corpus=a.txt", "--data.tokenizer.kind=word"]
    (hint,) = hints(*words, "--data.tokenizer.specials=['<|endoftext|>', '<|unk|>', '<|im_end|>']")
    assert "<|im_end|> occurs 40 times in the text itself, and each is that token there" in hint
