"""Hugging Face's GPT-2 in and out: the same logits, the same tensors, nothing skipped."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from llm.config import GPTConfig, SamplingConfig
from llm.errors import CheckpointError, ConfigError
from llm.generation import generate
from llm.model import GPT
from llm.pretrained import Pretrained, build, export, read_pretrained
from llm.tokenizers import BPETokenizer

transformers = pytest.importorskip("transformers")

SHAPES = {
    "plain": {},
    "one head": {"n_head": 1, "n_layer": 1, "n_embd": 7},
    "deep": {"n_layer": 5, "n_head": 2, "n_embd": 8, "n_positions": 9, "vocab_size": 30},
    "narrow hidden layer": {"n_inner": 20},
    "exact gelu": {"activation_function": "gelu"},
    "relu": {"activation_function": "relu"},
    "silu": {"activation_function": "silu"},
    "epsilon": {"layer_norm_epsilon": 0.1},
    "raw scores": {"scale_attn_weights": False},
    "own head": {"tie_word_embeddings": False},
    "numerics only": {"reorder_and_upcast_attn": True},
}


def logits(model, ids):
    with torch.no_grad():
        found = model(ids)
    return getattr(found, "logits", found)


def rewrite(folder, change):
    """Change the tensors of a folder."""
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")


def change_config(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_transformers(hugging_face, shape, attention):
    theirs, folder = hugging_face(attention=attention, **SHAPES[shape])
    ours = build(read_pretrained(folder)).eval()
    ids = torch.randint(ours.config.vocab_size, (3, ours.config.context_length))
    expected = logits(theirs, ids)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits(ours, ids), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_import_and_export_keep_every_bit(hugging_face, tmp_path, shape):
    _, folder = hugging_face(**SHAPES[shape])
    found = read_pretrained(folder)
    export(found, tmp_path / "out")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = read_pretrained(tmp_path / "out")
    assert again.config == found.config
    assert again.weights.keys() == found.weights.keys()
    assert all(torch.equal(again.weights[name], found.weights[name]) for name in found.weights)


def test_transformers_opens_what_was_exported(hugging_face, tmp_path):
    theirs, folder = hugging_face()
    export(read_pretrained(folder), tmp_path / "out")
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not info["missing_keys"] | info["unexpected_keys"] | info["mismatched_keys"]
    ids = torch.randint(61, (2, 16))
    torch.testing.assert_close(logits(again, ids), logits(theirs, ids))
    assert again.generation_config.eos_token_id is None


@pytest.mark.parametrize("shape", ["plain", "deep", "own head"])
def test_greedy_text_is_that_of_transformers(hugging_face, shape):
    theirs, folder = hugging_face(seed=3, **SHAPES[shape])
    ours = build(read_pretrained(folder)).eval()
    prompt = torch.tensor([5, 17, 2])
    n_new = ours.config.context_length - len(prompt)
    expected = theirs.generate(
        prompt[None], attention_mask=torch.ones(1, 3), max_new_tokens=n_new, do_sample=False, pad_token_id=0
    )[0, 3:]
    found = list(generate(ours, prompt, SamplingConfig(max_new_tokens=n_new, temperature=0)))
    assert found == expected.tolist()


def test_the_loss_on_a_real_text_is_that_of_transformers(hugging_face, verdict):
    theirs, folder = hugging_face(vocab_size=50257, n_positions=32)
    found = read_pretrained(folder)
    ours = build(found).eval()
    ids = torch.tensor(found.tokenizer.encode(verdict)[: 32 * 100]).view(-1, 32)
    with torch.no_grad():
        expected = theirs(ids, labels=ids).loss
    loss = F.cross_entropy(logits(ours, ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=0)


# What old and other files look like


def with_masks(tensors):
    masks = {f"transformer.h.{layer}.attn.bias": torch.ones(1, 1, 16, 16).tril() for layer in (0, 1)}
    return tensors | masks | {f"transformer.h.{layer}.attn.masked_bias": torch.tensor(-1e4) for layer in (0, 1)}


def bare(tensors):
    return {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}


def with_a_copy_of_the_head(tensors):
    return tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}


@pytest.mark.parametrize("change", [with_masks, bare, with_a_copy_of_the_head, lambda x: bare(with_masks(x))])
def test_old_files(hugging_face, change):
    _, folder = hugging_face()
    expected = read_pretrained(folder)
    rewrite(folder, change)
    found = read_pretrained(folder)
    assert found.config == expected.config
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)


@pytest.mark.parametrize("zipped", [True, False], ids=["today's format", "the format before 1.6"])
def test_pytorch_model_bin(hugging_face, zipped):
    _, folder = hugging_face()
    expected = read_pretrained(folder)
    tensors = with_masks(load_file(folder / "model.safetensors"))
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    for source in (folder, folder / "pytorch_model.bin"):
        found = read_pretrained(source)
        assert found.config == expected.config
        assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)


def test_files_saved_on_a_gpu(hugging_face, monkeypatch):
    _, folder = hugging_face()
    tensors = load_file(folder / "model.safetensors")
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(tensors, folder / "pytorch_model.bin")
    monkeypatch.undo()
    assert b"cuda:0" in (folder / "pytorch_model.bin").read_bytes()
    (folder / "model.safetensors").unlink()
    found = read_pretrained(folder)
    assert torch.equal(found.weights["embeddings.token.weight"], tensors["transformer.wte.weight"])


@pytest.mark.parametrize("safe", [True, False])
def test_sharded_files(hugging_face, safe):
    model, folder = hugging_face()
    expected = read_pretrained(folder)
    (folder / "model.safetensors").unlink()
    if safe:
        model.save_pretrained(folder, max_shard_size="4KB")
        assert len(list(folder.glob("model-*.safetensors"))) > 1
    else:
        names = list(model.transformer.state_dict())
        shards = {name: f"pytorch_model-0000{index % 2}.bin" for index, name in enumerate(names)}
        for shard in set(shards.values()):
            tensors = {name: model.transformer.state_dict()[name] for name in names if shards[name] == shard}
            torch.save(tensors, folder / shard)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": shards}))
    found = read_pretrained(folder)
    assert all(torch.equal(found.weights[name], expected.weights[name]) for name in expected.weights)


@pytest.mark.parametrize(
    "name",
    [
        "../secret.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..\\x",
        "gone.safetensors",
        "model.safetensors.index.json",
    ],
)
def test_an_index_names_files_beside_it(hugging_face, name):
    _, folder = hugging_face()
    shutil.copy(folder / "model.safetensors", folder.parent / "secret.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"wte.weight": name}}))
    with pytest.raises(CheckpointError, match=r"not a weights file beside it|missing"):
        read_pretrained(folder)


def test_an_index_and_its_files_name_the_same_tensors(hugging_face):
    _, folder = hugging_face()
    names = load_file(folder / "model.safetensors")
    index = dict.fromkeys(names, "model.safetensors") | {"transformer.extra": "model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    with pytest.raises(CheckpointError, match=r"do not name the same tensors: transformer\.extra"):
        read_pretrained(folder)


def test_half_precision_stays_as_it_is(hugging_face, tmp_path):
    _, folder = hugging_face()
    rewrite(folder, lambda tensors: {name: tensor.bfloat16() for name, tensor in tensors.items()})
    export(read_pretrained(folder), tmp_path / "out")
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "out"))
    assert all(after[name].dtype == torch.bfloat16 and torch.equal(before[name], after[name]) for name in before)


def test_a_file_without_its_config(hugging_face):
    _, folder = hugging_face(n_head=2, n_layer=12, n_embd=768, n_positions=8, n_inner=4)
    expected = read_pretrained(folder).config
    (folder / "config.json").unlink()
    assert read_pretrained(folder / "model.safetensors").config.n_head == 12  # GPT-2's published size
    found = read_pretrained(folder / "model.safetensors", {"n_head": 2})
    assert found.config == expected
    assert "no config.json" in found.notes[0]


def test_a_file_that_does_not_say_its_heads(hugging_face):
    _, folder = hugging_face()
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"how many heads.*--n_head"):
        read_pretrained(folder)
    assert read_pretrained(folder, {"n_head": 3}).config.n_head == 3


# What does not fit is listed


def test_every_tensor_that_does_not_fit_is_listed(hugging_face):
    _, folder = hugging_face()

    def spoil(tensors):
        del tensors["transformer.h.0.ln_1.weight"], tensors["transformer.h.1.mlp.c_fc.bias"]
        tensors["transformer.h.1.attn.c_attn.weight"] = torch.zeros(36, 12)
        tensors["transformer.wpe.weight"] = torch.zeros(16, 12, dtype=torch.int8)
        return tensors | {"transformer.h.7.crossattention.bias": torch.zeros(1), "score.weight": torch.zeros(1)}

    rewrite(folder, spoil)
    with pytest.raises(CheckpointError) as caught:
        read_pretrained(folder)
    message = str(caught.value)
    assert "missing: h.0.ln_1.weight, h.1.mlp.c_fc.bias;" in message
    assert "not expected: h.7.crossattention.bias, score.weight;" in message
    assert "h.1.attn.c_attn.weight (expected (12, 36), found (36, 12))" in message
    assert "wpe.weight (expected (16, 12), found (16, 12) of torch.int8)" in message
    assert str(folder) in message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "gpt_neo"}, r"is a GPT2 \(model_type 'gpt_neo'\), which .* can be read are gpt2, llama,"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx on"),
        ({"add_cross_attention": True}, "add_cross_attention on"),
        ({"activation_function": "quick_gelu"}, "activation 'quick_gelu'"),
        ({"activation_function": ["relu"]}, r"activation \['relu'\]"),
        ({"resid_pdrop": [0.1]}, "no model that can be built"),
        ({"n_embd": 10**9}, "n_embd"),
        ({"n_head": 5}, "n_embd must be divisible by n_head"),
        ({"n_layer": "two"}, "no model that can be built"),
        ({"n_layer": 3}, r"missing: h\.2\.ln_1\.weight"),
        ({"n_layer": 1}, r"not expected: h\.1\.attn"),
        ({"vocab_size": 60}, r"wte\.weight \(expected \(60, 12\), found \(61, 12\)\)"),
        ({"tie_word_embeddings": False}, r"missing: lm_head\.weight"),
    ],
)
def test_a_config_that_does_not_fit(hugging_face, settings, message):
    _, folder = hugging_face()
    change_config(folder, **settings)
    with pytest.raises(CheckpointError, match=message):
        read_pretrained(folder)


def test_a_head_of_its_own_that_the_config_denies(hugging_face):
    _, folder = hugging_face(tie_word_embeddings=False)
    change_config(folder, tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match="tie_word_embeddings"):
        read_pretrained(folder)


# What their format can't hold


def pretrained(**settings):
    torch.manual_seed(0)
    config = GPTConfig(**({"vocab_size": 17, "context_length": 8, "n_layer": 1, "n_head": 2, "n_embd": 8} | settings))
    model = GPT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Pretrained("llm", config, model.state_dict()), model


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"attention": "causal"}, "attention is causal"),
        ({"attention": "dot"}, "attention is dot"),
        ({"normalize_scores": "sum"}, "normalize_scores is sum"),
        ({"norm": "none"}, "norm is none"),
        ({"residual": False}, "residual is False"),
        ({"mlp": "none", "norm": "none"}, "norm is none, mlp is none"),
        ({"n_kv_head": 1}, "n_kv_head is 1"),
        ({"head_size": 8}, "head_size is 8"),
        ({"causal": False}, "causal is False"),
        ({"norm_first": False}, "norm_first is False"),
    ],
)
def test_what_gpt2_has_no_place_for_is_refused(tmp_path, settings, reason):
    found, _ = pretrained(**settings)
    with pytest.raises(ConfigError, match=reason):
        export(found, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"bias": False, "qkv_bias": False}, {"qkv_bias": False}, {"tie_head": False}])
def test_missing_biases_become_zeros(tmp_path, settings):
    found, ours = pretrained(**settings)
    notes = export(found, tmp_path / "out")
    assert ("biases" in notes[0]) == ("qkv_bias" in settings)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(17, (2, 8))
    torch.testing.assert_close(logits(theirs, ids), logits(ours, ids), atol=1e-4, rtol=1e-4)


def test_padding_is_left_out(tmp_path):
    found, ours = pretrained(vocab_multiple=64)
    notes = export(found, tmp_path / "out")
    assert "47 rows of padding" in notes[0]
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(17, (2, 8))
    torch.testing.assert_close(logits(theirs, ids), logits(ours, ids), atol=1e-4, rtol=1e-4)


def test_a_model_of_bytes_is_exported_with_its_tokenizer(tmp_path, gpt2_tokenizer):
    found, _ = pretrained(vocab_size=50257)
    found = Pretrained("llm", found.config, found.weights, BPETokenizer("gpt2"))
    assert export(found, tmp_path / "out") == []
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "It's 20 °C;  naïve 猫 😀\n\n\tso<|endoftext|>it is "
    assert theirs(text)["input_ids"] == found.tokenizer.encode(text) == gpt2_tokenizer(text)["input_ids"]
    assert theirs.decode(theirs(text)["input_ids"]) == text
    assert (theirs.eos_token_id, theirs.model_max_length) == (50256, 8)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == 50256
    assert read_pretrained(tmp_path / "out").tokenizer == found.tokenizer
