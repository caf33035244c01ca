"""The page is one file that asks for nothing, takes any text, and holds the weights."""

import base64
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_probe import make

import llm
from llm.__main__ import main
from llm.config import GPTConfig, TokenizerConfig
from llm.inspection.page import most_tokens
from llm.pretrained.checkpoint import describe
from llm.tokenizers import build_tokenizer

CONFIG = GPTConfig(vocab_size=50257, context_length=64, n_layer=1, n_head=2, n_embd=4)
MODEL = make(CONFIG)
GPT2 = build_tokenizer(TokenizerConfig(), [])
NASTY = "</script><script>alert(1)</script><!-- <b> {{data}} {{style}} \u2028\u2029 \x00 & ' \" ` 猫😀 مرحبا"


def data_of(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def weights_of(data):
    T, maps = len(data["tokens"]), data["layers"] * data["heads"]
    values = np.frombuffer(base64.b64decode(data["weights"]), "<u2").reshape(maps, -1) / data["steps"]
    if not data["causal"]:
        return values.reshape(maps, T, T)
    full = np.zeros((maps, T, T))
    full[:, *np.tril_indices(T)] = values
    return full


@pytest.mark.parametrize("attention", ["multi_head", "self"])
def test_the_weights_in_it_are_the_model_s(attention):
    config = GPTConfig(vocab_size=9, context_length=8, n_layer=2, n_head=2, n_embd=8, attention=attention)
    report = llm.inspect(make(config), [1, 2, 3, 4, 5])
    data = data_of(report.page())
    expected = torch.cat(report.maps).numpy()
    np.testing.assert_allclose(weights_of(data), expected, atol=0.5 / 65535 + 1e-7)
    assert data["scores"][-1][0] == pytest.approx(report.heads()[-1].entropy, abs=1e-4)
    assert data["lens"][-1]["ranks"] == report.lens()[-1].ranks.tolist()


@settings(max_examples=25)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40))
def test_any_text_is_safe_in_it(text):
    page = llm.inspect((MODEL, GPT2), text).page()
    assert page.count("<script") == 2
    assert page.count("</script") == 2
    assert page.count("<!--") == 0
    assert data_of(page)["tokens"]


def test_a_nasty_text_is_text():
    report = llm.inspect((MODEL, GPT2), NASTY)
    page = report.page()
    assert page.count("</script") == 2
    assert data_of(page)["tokens"] == report.text_labels(32)
    assert "\u2028" not in page
    assert report.page() == page


def test_a_token_that_is_markup_is_text():
    """GPT-2 cuts `</script>` in three; other vocabularies need not."""
    specials = ("</script>", "<!--", "<script>", "&lt;")
    tokenizer = build_tokenizer(TokenizerConfig(kind="char", specials=specials), ["ab"])
    config = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=8, n_layer=1, n_head=1, n_embd=4)
    page = llm.inspect((make(config), tokenizer), "a</script><!--<script>&lt;b").page()
    assert page.count("</script") == page.count("<script") == 2
    assert page.count("<!--") == 0
    assert data_of(page)["tokens"] == ["a", *specials, "b"]


def test_it_names_no_address():
    page = llm.inspect((MODEL, GPT2), "the cat").page()
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|//cdn|@import|url\(|src=", page)


def test_twelve_layers_twelve_heads_64_tokens_are_under_5_mb():
    config = GPTConfig(vocab_size=300, context_length=64, n_layer=12, n_head=12, n_embd=12)
    page = llm.inspect(make(config), list(range(64))).page()
    assert len(page.encode()) < 5_000_000
    assert len(data_of(page)["tokens"]) == 64


@given(n_layer=st.integers(1, 96), heads=st.integers(1, 96), causal=st.booleans())
def test_the_weights_always_fit(n_layer, heads, causal):
    T = most_tokens(n_layer, heads, causal)
    values = (T * (T + 1) // 2 if causal else T * T) * n_layer * heads
    assert T >= 1
    assert values * 2 * 4 / 3 < 4_000_000 or T == 1


def test_a_page_that_would_grow_too_large_is_cropped_and_says_so():
    config = GPTConfig(vocab_size=300, context_length=200, n_layer=12, n_head=12, n_embd=12)
    page = llm.inspect(make(config), list(range(200)), tokens=200).page()
    data = data_of(page)
    assert len(page.encode()) < 5_000_000
    assert len(data["tokens"]) == most_tokens(12, 12, causal=True) == 138
    assert "tokens are shown, so that the page stays small" in data["notes"][-1]


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "model.ckpt"
    weights = {f"network.{name}": tensor for name, tensor in MODEL.state_dict().items()}
    torch.save({"state_dict": weights, "llm": describe(CONFIG, GPT2)}, path)
    return path


def test_the_command_writes_it(checkpoint, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["attention", "--ckpt", str(checkpoint), "--text", NASTY, "--out", str(out)]) == 0
    assert data_of(out.read_text(encoding="utf-8"))["tokens"]
    assert f"open {out} in a browser" in capsys.readouterr().out


def test_the_command_crops_a_long_text_and_says_so(checkpoint, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["attention", "--ckpt", str(checkpoint), "--text", "cat " * 500, "--out", str(out)]) == 0
    assert "warning: the first 64 of 501 tokens are shown" in capsys.readouterr().err
    assert len(data_of(out.read_text(encoding="utf-8"))["tokens"]) == 64


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--text", ""], "the text to inspect is empty"),
        (["--text", "cat", "--tokens", "0"], "tokens must be at least 1"),
        (["--text", "cat", "--out", "."], "is a folder"),
        (["--text", "cat", "--out", "/nowhere/at/all/page.html"], "Permission denied|No such file|Read-only"),
    ],
)
def test_bad_input_is_one_line(checkpoint, capsys, words, message, monkeypatch):
    if "/nowhere" in words[-1]:
        monkeypatch.setattr("pathlib.Path.mkdir", lambda *_args, **_kwargs: None)
    assert main(["attention", "--ckpt", str(checkpoint), *words]) == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert len(error.splitlines()) == 1
