"""Files for sharing, and targets that are whole or untouched."""

import json
import stat
from dataclasses import replace

import pytest
import torch
from safetensors import SafetensorError, safe_open

from llm.config import GPTConfig
from llm.errors import CheckpointError, ConfigError
from llm.model import GPT
from llm.pretrained import Pretrained, export, load, read_pretrained, replacing
from llm.tokenizers import BPETokenizer, CharTokenizer

CONFIG = GPTConfig(vocab_size=17, context_length=8, n_layer=2, n_head=2, n_embd=8)


def pretrained(tokenizer=None, **settings):
    config = replace(CONFIG, **settings)
    return Pretrained("llm", config, GPT(config).state_dict(), tokenizer)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"tie_head": False, "bias": False},
        {"vocab_multiple": 32, "mlp_hidden": 5},
        {"attention": "causal", "norm": "none", "mlp": "none"},
        {"attention": "dot", "residual": False},
    ],
)
def test_a_shared_file_is_the_whole_model(tmp_path, settings):
    found = pretrained(CharTokenizer("abcdefghijklmnopq"), **settings)
    assert export(found, tmp_path / "model.safetensors", "safetensors") == []
    again = read_pretrained(tmp_path / "model.safetensors")
    assert (again.config, again.tokenizer) == (found.config, found.tokenizer)
    assert again.weights.keys() == found.weights.keys()
    assert all(torch.equal(again.weights[name], found.weights[name]) for name in found.weights)
    assert load(tmp_path / "model.safetensors").tokenizer == found.tokenizer


def test_a_shared_file_says_what_it_is(tmp_path):
    export(pretrained(), tmp_path / "model.safetensors", "safetensors")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
        assert "head.weight" not in file.keys()  # noqa: SIM118
    assert list(metadata) == ["llm"]
    assert json.loads(metadata["llm"])["network"] == CONFIG.to_dict()


def test_others_may_read_what_is_written(tmp_path):
    for format, name in (("safetensors", "model.safetensors"), ("hf", "out")):
        export(pretrained(), tmp_path / name, format)
    (tmp_path / "plain").touch()
    for file in (tmp_path / "model.safetensors", tmp_path / "out" / "model.safetensors"):
        assert stat.S_IMODE(file.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_tokenizer_without_files_stays_behind_and_it_is_said(tmp_path):
    other = BPETokenizer()
    other.encoding = "o200k_base"  # which would have to be downloaded
    for name, tokenizer in (("other", other), ("none", None)):
        (note,) = export(pretrained(tokenizer), tmp_path / name)
        assert "no tokenizer files were written" in note
        files = sorted(file.name for file in (tmp_path / name).iterdir())
        assert files == ["README.md", "config.json", "generation_config.json", "model.safetensors"]
        assert "There are no tokenizer files here" in (tmp_path / name / "README.md").read_text()


def test_the_card_says_what_it_is_and_its_code_runs(tmp_path):
    tokenizer = CharTokenizer("OnceabdtTh, iu.ly", ("<|endoftext|>",))
    found = pretrained(tokenizer, vocab_size=tokenizer.vocab_size, context_length=64)
    export(found, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    transformers = pytest.importorskip("transformers")
    n_parameters = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters()
    assert f"| {n_parameters:,} | 2 | 2 | 8 | 64 | {tokenizer.vocab_size} |" in card
    code = card.split("```python")[1].split("```")[0].replace("FOLDER", str(tmp_path / "out"))
    printed = []
    exec(code, {"print": printed.append})
    assert printed[0].startswith("Once")


def test_a_card_is_replaced_with_its_model_and_somebodys_own_is_not(tmp_path):
    export(pretrained(), tmp_path / "out")
    export(pretrained(CharTokenizer("abcdefghijklmnopq")), tmp_path / "out", overwrite=True)
    assert "AutoTokenizer.from_pretrained" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "out" / "README.md").write_text("mine")
    export(pretrained(), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == "mine"


@pytest.mark.parametrize("format", ["hf", "safetensors"])
def test_what_is_there_stays_unless_it_may_be_replaced(tmp_path, format):
    target = tmp_path / "target"
    if format == "hf":
        target.mkdir()
        (target / "tokenizer.json").write_text("stale")
        kept = target / "config.json"
    else:
        kept = target
    kept.write_text("mine")
    with pytest.raises(CheckpointError, match=r"is there already.*--overwrite"):
        export(pretrained(), target, format)
    assert kept.read_text() == "mine"
    export(pretrained(), target, format, overwrite=True)
    assert read_pretrained(target).config == replace(CONFIG, dropout=CONFIG.dropout)
    assert not (target / "tokenizer.json").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["target"]


def test_files_that_are_none_of_a_models_stay(tmp_path):
    export(pretrained(n_layer=1), tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("mine")
    (tmp_path / "out" / "pictures").mkdir()
    export(pretrained(), tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "README.md").read_text() == "mine"
    assert (tmp_path / "out" / "pictures").is_dir()
    assert read_pretrained(tmp_path / "out").config.n_layer == 2


def test_a_folder_of_other_things_is_not_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(CheckpointError, match="holds no model"):
        export(pretrained(), tmp_path, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "out").mkdir()
    export(pretrained(), tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.parametrize(("format", "message"), [("hf", "is a file"), ("safetensors", "is a folder")])
def test_a_file_is_no_folder(tmp_path, format, message):
    target = tmp_path / "target"
    target.mkdir() if format == "safetensors" else target.touch()
    with pytest.raises(CheckpointError, match=message):
        export(pretrained(), target, format, overwrite=True)


@pytest.mark.parametrize("format", ["hf", "safetensors"])
@pytest.mark.parametrize("out", ["file/x", "file/deep/x"])
def test_a_file_where_a_folder_should_be_is_named(tmp_path, format, out):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match=r"can't write '.*x': '.*file' is a file, not a folder"):
        export(pretrained(), tmp_path / out, format)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("model_type", ["opt", "gpt2", None])
def test_a_shared_file_stays_of_its_family(tmp_path, model_type):
    settings = {"activation": "relu"}  # which GPT-2 could hold, too
    found = replace(pretrained(**settings), model_type=model_type)
    export(found, tmp_path / "model.safetensors", "safetensors")
    export(read_pretrained(tmp_path / "model.safetensors"), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == (model_type or "gpt2")


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("No space left on device")])
def test_nothing_is_left_half_written(tmp_path, monkeypatch, there, error):
    target = tmp_path / "out"
    if there:
        export(pretrained(n_layer=1), target)

    def fail(*_):
        raise error

    monkeypatch.setattr(replacing, "save_file", fail)
    with pytest.raises(CheckpointError, match="No space left on device"):
        export(pretrained(), target, overwrite=True)
    assert [file.name for file in tmp_path.iterdir()] == (["out"] if there else [])
    if there:
        assert read_pretrained(target).config.n_layer == 1


def test_an_unknown_format():
    with pytest.raises(ConfigError, match="unknown format 'onnx'"):
        export(pretrained(), "out", "onnx")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{", "metadata describe no model"),
        (json.dumps({"network": {"n_layer": -1}, "tokenizer": None}), "metadata describe no model"),
        (
            json.dumps({"network": CONFIG.to_dict() | {"n_layer": 3}, "tokenizer": None}),
            r"blocks\.2\.mlp\.expand\.weight \(",
        ),
        (json.dumps({"network": CONFIG.to_dict(), "tokenizer": {"kind": "x"}}), "tokenizer can't be built"),
    ],
)
def test_a_shared_file_that_does_not_fit(tmp_path, entry, message):
    from safetensors.torch import save_file

    tensors = {name: tensor for name, tensor in GPT(CONFIG).state_dict().items() if name != "head.weight"}
    save_file(tensors, tmp_path / "model.safetensors", {"llm": entry})
    with pytest.raises(CheckpointError, match=message):
        read_pretrained(tmp_path / "model.safetensors")
