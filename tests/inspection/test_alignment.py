"""The attention of a translation to its source: numbers, pictures, page, TensorBoard."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_browser import browser  # noqa: F401  (a fixture)
from torch import nn

from llm.__main__ import main as command
from llm.cli.main import main
from llm.config import TransformerConfig
from llm.errors import ConfigError, TokenizerError
from llm.generation.translating import Translator
from llm.inspection import align, capture, trace_shapes
from llm.inspection.shapes import legend, text_table
from llm.model import Transformer
from llm.tokenizers import END_OF_TEXT, CharTokenizer

TARGET, SOURCE = (CharTokenizer.from_text(text, [END_OF_TEXT]) for text in ("AB<", "你好吗"))


@pytest.fixture
def aligned():
    torch.manual_seed(0)
    sizes = {"vocab_size": TARGET.vocab_size, "source_vocab_size": SOURCE.vocab_size, "context_length": 8}
    model = Transformer(TransformerConfig(**sizes, n_layer=2, n_head=2, n_embd=8, dropout=0.0)).eval()
    for parameter in model.requires_grad_(False).parameters():
        nn.init.normal_(parameter, std=0.5)
    return model, align(Translator(model, TARGET, SOURCE), "你好", "BA<B", "</script>")


def test_rows_are_what_is_written_and_columns_what_is_looked_at(aligned):
    model, found = aligned
    assert found.source == ["你", "好", "<|endoftext|>"]
    assert found.target == ["B", "A", "<", "B", "<|endoftext|>"]
    assert found.names == ["block 0", "block 1"]
    target = torch.tensor([[TARGET.end_of_text_id, *TARGET.encode("BA<B")]])
    source = torch.tensor([[*SOURCE.encode("你好"), SOURCE.end_of_text_id]])
    maps = capture(model, target, source=source).maps("cross")
    for weights, expected in zip(found.layers, maps, strict=True):
        assert torch.equal(weights, expected[0])
        assert weights.shape == (2, 5, 3)
    torch.testing.assert_close(found.mean, torch.cat([part[0] for part in maps]).mean(0))


def test_pictures_show_their_weights(aligned):
    _, found = aligned
    pictures = [found.figure(0), found.figure(1), found.mean_figure()]
    assert len({picture.tobytes() for picture in pictures}) == 3
    assert found.figure(0).tobytes() == pictures[0].tobytes()
    with pytest.raises(IndexError):
        found.figure(2)


def test_the_page_holds_the_weights_and_takes_no_token_for_markup(aligned, tmp_path):
    _, found = aligned
    page = found.page(tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == page
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert (data["source"], data["target"]) == (found.source, found.target)
    assert [head["name"] for head in data["heads"]][:2] == ["mean of all heads", "block 0, head 0"]
    for head, expected in zip(data["heads"], [found.mean, *found.layers[0], *found.layers[1]], strict=True):
        weights = np.frombuffer(base64.b64decode(head["weights"]), "<u2").reshape(5, 3) / data["steps"]
        assert weights == pytest.approx(expected.numpy(), abs=1e-5)
    assert "{{" not in page
    assert page.count("</script>") == 2


def test_to_point_at_a_word_shows_where_it_looked(aligned, browser, tmp_path):  # noqa: F811
    from selenium.webdriver import ActionChains

    _, found = aligned
    found.page(tmp_path / "page.html")
    browser.get_log("browser")
    browser.get((tmp_path / "page.html").as_uri())
    words = browser.find_elements("css selector", "#target .token")
    assert [word.text for word in words] == found.target
    for index in (1, 3):
        ActionChains(browser).move_to_element(words[index]).perform()
        best = int(found.mean[index].argmax())
        said = browser.find_element("id", "weight").text
        assert said == (
            f"“{found.target[index]}” looked at “{found.source[best]}”: {float(found.mean[index, best]):.3f}"
        )
        shades = [
            word.value_of_css_property("background-color")
            for word in browser.find_elements("css selector", "#source .token")
        ]
        alphas = [float(re.findall(r"[\d.]+", shade)[3]) for shade in shades]
        assert alphas == pytest.approx((0.85 * found.mean[index]).tolist(), abs=0.01)
        assert [mark.text for mark in browser.find_elements("css selector", "tbody .on")] == [found.target[index]]
    upright = browser.find_elements("css selector", "thead .stacked")
    assert [heading.text for heading in upright] == ["你", "好"]
    browser.find_element("css selector", "#head option:nth-child(2)").click()
    assert f"{float(found.layers[0][0, 3].max()):.3f}" in browser.find_element("id", "weight").text
    assert [entry["message"] for entry in browser.get_log("browser")] == []


def test_a_network_without_attention_to_the_source_has_no_alignment(aligned, monkeypatch):
    model, _ = aligned
    monkeypatch.setattr(type(model), "stages", lambda self: iter(()))
    with pytest.raises(ConfigError, match="no attention to the source"):
        align(Translator(model, TARGET, SOURCE), "你好")


def test_the_shape_table_has_source_and_target():
    config = TransformerConfig(9, 5, n_layer=1, n_head=2, n_embd=8, source_vocab_size=7)
    rows = {row.stage: (row.axes, row.shape) for row in trace_shapes(config, 3)}
    assert rows["memory"] == ("(B, S, C)", (3, 5, 8))
    assert rows["block 0 / cross / weights"] == ("(B, H, T, S)", (3, 2, 5, 5))
    assert rows["encoder block 0 / weights"] == ("(B, H, S, S)", (3, 2, 5, 5))
    assert rows["encoder block 0 / V"][0] == "(B, H, S, D)"
    assert rows["encoder block 0 / attention out"][0] == rows["encoder block 0 / residual"][0] == "(B, S, C)"
    assert "S = T = 5 (tokens of source and target)" in legend(config, 3)
    two = TransformerConfig(9, 5, n_layer=2, n_encoder_layer=3, n_head=2, n_embd=8, source_vocab_size=7)
    stages = [line.partition("  ")[0] for line in text_table(trace_shapes(two, 3)).splitlines()]
    assert "encoder block 0-2 / MLP" in stages
    assert "block 0-1 / cross / K" in stages
    assert len(stages) == len(set(stages)) == 1 + len(rows)
    assert rows["logits"] == ("(B, T, V)", (3, 5, 9))


def test_a_run_writes_what_it_looks_at(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("pairs.tsv").write_text("".join(f"{word}\t{word.upper()}\n" for word in ("ab", "ba", "b", "a|b", "aa", "bb")))
    words = ["--task=translate", "--model.transformer={n_layer: 1, n_head: 2, n_embd: 8}", "--data.corpus=pairs.tsv"]
    words += ["--data.context_length=6", "--data.batch_size=2", "--trainer.max_steps=2", "--inspect.every=1"]
    words += ["--inspect.source=ab", "--data.validation_fraction=0.3"]
    assert main(["fit", *words]) == 0
    said = capsys.readouterr().err
    assert "in this run" not in said
    folder = next(Path("runs").rglob("attention.html")).parent
    assert (folder / "alignment.png").stat().st_size > 0
    assert '"source":["a","b","\\u003c|endoftext|\\u003e"]' in (folder / "attention.html").read_text(encoding="utf-8")
    assert "| block 0 / cross / weights | (B, H, T, S) |" in (folder / "shapes.md").read_text()
    tags = EventAccumulator(str(folder), {"images": 0, "tensors": 0}).Reload().Tags()
    assert "within attention/to the source, block 0" in tags["images"]
    assert "1 samples/text_summary" in tags["tensors"]
    checkpoint = str(next(Path("runs").rglob("last.ckpt")))
    assert command(["attention", "--ckpt", checkpoint, "--text=ba"]) == 0
    assert '"source":["b","a"' in Path("attention.html").read_text(encoding="utf-8")


def test_without_a_target_it_is_of_what_the_network_writes(aligned):
    translator = Translator(aligned[0], TARGET, SOURCE)
    found, wrote = align(translator, "你好吗"), translator.translate(["你好吗"])[0]
    assert found.target[:-1] == list(wrote.text)[:7]
    with pytest.raises(TokenizerError, match="nothing to translate"):
        align(translator, " ")
    with pytest.raises(ConfigError, match="context holds 8"):
        align(translator, "你好吗", "AB" * 5)
