import re

import pytest

from llm.__main__ import main
from llm.config import GPTConfig, TokenizerConfig
from llm.model import GPT
from llm.pretrained import Pretrained, export
from llm.tokenizers import build_tokenizer


def test_a_text_is_walked_through_every_stage(capsys):
    assert main(["trace"]) == 0
    output = capsys.readouterr().out
    assert "Your | journey | starts | with | one | step" in output
    assert "0, 1, 3, 5, 2, 4" in output  # the sorted vocabulary: Your journey one starts step with
    assert "[0, 1, 3, 5] -> [1, 3, 5, 2]" in output
    for stage in ("token embeddings", "positional embeddings", "input embeddings", "scores", "weights", "context"):
        assert stage in output, stage
    rows = re.search(r"weights: rows sum.*\n.*\n((?: +\w+(?: +[\d.]+){6}\n){6})", output)
    assert rows, "the matrix of weights"
    for number, row in enumerate(rows[1].splitlines()):
        values = [float(value) for value in row.split()[1:]]
        assert sum(values) == pytest.approx(1, abs=1e-3)
        assert values[number + 1 :] == [0.0] * (5 - number), "causal: what comes later is not seen"


def test_of_a_long_text_no_more_is_held_than_fits(capsys, monkeypatch):
    monkeypatch.setattr("llm.inspection.probe.MAX_ATTENTION_BYTES", 2 * 4 * 3 * 3)  # scores and weights of three tokens
    assert main(["trace"]) == 0
    output = capsys.readouterr().out
    assert "memory is for the matrices of 3 tokens at once" in output
    assert "weights: rows sum to 1; a masked key gets 0 (3, 3)" in output


@pytest.mark.parametrize("attention", ["dot", "self", "causal", "multi_head"])
def test_every_attention_and_any_text(attention, capsys):
    assert main(["trace", "--attention", attention, "--text", "猫が 座った 😀 $x$"]) == 0
    assert f"Attention ({attention})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", "  "], "the text is empty"),
        (["--text", "a\udcff"], "not valid Unicode at character 1"),
        (["--seed", "99999999999999999999"], "seed must be from 0"),
        (["--layer", "3"], "there is no layer 3: this model has 1"),
        (["--head", "1"], "there is no head 1"),
        (["--attention", "none"], "attention must be one of"),
        (["--ckpt", "missing.ckpt"], "there is no file or folder"),
    ],
)
def test_bad_input_is_one_line(words, message, capsys):
    assert main(["trace", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_one_token_is_a_text(capsys):
    assert main(["trace", "--text", "Hello"]) == 0
    assert "loss" not in capsys.readouterr().out


def test_too_little_memory_is_one_line(monkeypatch, capsys):
    def no_memory(_config):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:130] . DefaultCPUAllocator: can't allocate memory: 48 GB")

    monkeypatch.setattr("llm.model.GPT", no_memory)
    assert main(["trace"]) == 1
    error = capsys.readouterr().err
    assert "not enough memory" in error
    assert error.count("\n") == 1


def test_every_query_head_has_its_keys_where_several_share_them(tmp_path, capsys):
    tokenizer = build_tokenizer(TokenizerConfig(kind="char", specials=()), ["the cat"])
    config = GPTConfig(tokenizer.vocab_size, 8, n_layer=1, n_head=4, n_embd=8, n_kv_head=2, head_size=3)
    export(
        Pretrained("llm", config, GPT(config).state_dict(), tokenizer), tmp_path / "model.safetensors", "safetensors"
    )
    keys = []
    for head in range(4):
        words = ["--ckpt", str(tmp_path / "model.safetensors"), "--text", "the cat", "--head", str(head)]
        assert main(["trace", *words]) == 0
        output = capsys.readouterr().out
        assert "K = 2 (key and value heads)" in output
        keys.append(output.partition("   K (7, 3)\n")[2].partition("   V")[0])
    assert keys[0] == keys[1] != keys[2] == keys[3]
    assert keys[0].count("\n") == 7
