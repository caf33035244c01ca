"""`llm.inspect`, as a notebook uses it."""

import pytest
import torch
from test_probe import make

import llm
from llm.__main__ import main
from llm.config import GPTConfig, TokenizerConfig
from llm.errors import ConfigError, TokenizerError
from llm.pretrained import Pretrained, export
from llm.tokenizers import build_tokenizer

TEXT = "the cat sat on the mat"


@pytest.fixture
def loaded():
    tokenizer = build_tokenizer(TokenizerConfig(kind="char", specials=()), [TEXT])
    config = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=12, n_layer=2, n_head=2, n_embd=8)
    return make(config), tokenizer


def test_tensors_by_name(loaded):
    report = llm.inspect(loaded, "the cat")
    assert report["block 1 / weights"].shape == (1, 2, 7, 7)
    assert torch.equal(report["block 1 / weights"][0], report.maps[1])
    assert {"token ids", "input embeddings", "block 0 / Q", "final norm", "logits"} <= set(report)
    assert len(report) == len(list(report))
    with torch.no_grad():
        assert torch.equal(report["logits"], loaded[0].eval()(torch.tensor([report.ids])))
    assert report.labels == ["t", "h", "e", "·", "c", "a", "t"]


def test_heads_table_figure_and_page(loaded, tmp_path):
    report = llm.inspect(loaded, "the cat")
    assert [(row.layer, row.head) for row in report.heads()] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert "induction" in repr(report.heads())
    assert "block 0-1 / weights" in report.table()
    assert report.figure(1).size[0] > 100
    assert report.rollout().shape == (7, 7)
    page = report.page(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    assert page._repr_html_().startswith("<iframe srcdoc=")


def test_weights_in_any_file_that_can_be_read(loaded, tmp_path):
    model, tokenizer = loaded
    shared = tmp_path / "shared.safetensors"
    export(Pretrained("llm", model.config, model.state_dict(), tokenizer), shared, "safetensors")
    assert torch.equal(llm.inspect(shared, "the cat")["logits"], llm.inspect(loaded, "the cat")["logits"])
    for command in ("trace", "attention"):
        words = ["--out", str(tmp_path / "page.html")] if command == "attention" else []
        assert main([command, "--ckpt", str(shared), "--text", "the cat", *words]) == 0


def test_a_model_alone_reads_ids_and_a_text_with_a_tokenizer(loaded):
    model, tokenizer = loaded
    assert llm.inspect(model, [1, 2, 3]).labels == ["1", "2", "3"]
    assert llm.inspect(model, torch.tensor([1, 2, 3])).ids == [1, 2, 3]
    assert llm.inspect(model, "cat", tokenizer).labels == ["c", "a", "t"]
    with pytest.raises(ConfigError, match="a network alone can't read text"):
        llm.inspect(model, "cat")


def test_a_long_text_is_cropped_and_says_so(loaded):
    report = llm.inspect(loaded, TEXT)
    assert len(report.ids) == 12
    assert report.notes == ["the first 12 of 22 tokens are shown"]
    assert llm.inspect(loaded, TEXT, tokens=5).notes == ["the first 5 of 22 tokens are shown"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("", ConfigError, "the text to inspect is empty"),
        ([], ConfigError, "the text to inspect is empty"),
        ([1, 99], ConfigError, "holds token id 99, outside the model's vocabulary of 10"),
        ("Ж", TokenizerError, "unknown character 'Ж'"),
    ],
)
def test_what_can_not_be_inspected(loaded, text, error, message):
    with pytest.raises(error, match=message):
        llm.inspect(loaded, text)


def test_one_token_is_enough(loaded):
    report = llm.inspect(loaded, "t")
    assert report.heads()[0].entropy is None
    assert report.page()


def test_a_notebook_shows_tables(tiny):
    report = llm.inspect(make(tiny), list(range(8)))
    heads, shapes = report.heads()._repr_html_(), report.table()._repr_html_()
    assert heads.count("<tr>") == 1 + tiny.n_layer * tiny.n_head
    assert f"{report.heads()[0].sink:.3f}" in heads
    assert shapes.count("<tr>") == len(report.table().splitlines())
    assert "<td>logits</td>" in shapes
