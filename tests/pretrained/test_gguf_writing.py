"""GGUF files that `export` writes: read again by the package `gguf`, by `transformers`, by llama.cpp, and here."""

import json
import sys
import urllib.request
from dataclasses import replace

import pytest
import torch
from torch import nn

from llm.__main__ import main
from llm.config import EncoderConfig, GPTConfig, RopeScaling
from llm.errors import CheckpointError, ConfigError
from llm.model import GPT, Encoder
from llm.pretrained import Pretrained, build, export, read_pretrained
from llm.pretrained.definitions import added_token, around, scored_pieces
from llm.pretrained.tokenizer_files import from_definition
from llm.tokenizers import BytePairTokenizer, CharTokenizer, Roles, Tokenizer
from llm.tokenizers.learning import learn_byte_pairs

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

V = 64
SIZES = {"vocab_size": V, "context_length": 48, "n_layer": 2, "n_head": 4, "n_embd": 64, "dropout": 0.0}
LLAMA = {
    **SIZES,
    "n_kv_head": 2,
    "positions": "rotary",
    "norm": "rms_norm",
    "mlp": "gated",
    "activation": "silu",
    "mlp_hidden": 96,
    "bias": False,
    "qkv_bias": False,
    "tie_head": False,
}
QWEN3 = {**LLAMA, "qk_norm": True, "qk_gain": "separate", "head_size": 128}
SHAPES = {
    "llama": LLAMA,
    "llama, tied, a head size": {**LLAMA, "tie_head": True, "head_size": 24, "rope_theta": 5e5},
    "llama, biases": {**LLAMA, "bias": True, "qkv_bias": True},
    "llama, linear": {**LLAMA, "rope_scaling": RopeScaling("linear", 2.0)},
    "llama, yarn": {**LLAMA, "rope_scaling": RopeScaling("yarn", 4.0, 16)},
    "llama, llama3": {**LLAMA, "head_size": 64, "rope_theta": 5e5, "rope_scaling": RopeScaling("llama3", 32.0, 8192)},
    "qwen2": {**LLAMA, "qkv_bias": True},
    "qwen3": QWEN3,
    "gpt2": SIZES,
    "gpt2, no biases": {**SIZES, "bias": False, "qkv_bias": False, "tie_head": False, "mlp_hidden": 32},
}
IDS = torch.randint(V, (2, 40), generator=torch.Generator().manual_seed(1))


def make(tokenizer=None, **settings):
    torch.manual_seed(0)
    config = GPTConfig(**settings)
    model = GPT(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return Pretrained("llm", config, model.state_dict(), tokenizer)


@torch.no_grad()
def logits(model, ids=IDS):
    found = model.eval()(ids)
    return getattr(found, "logits", found)


@pytest.mark.parametrize("settings", SHAPES.values(), ids=SHAPES)
def test_what_is_written_has_the_logits_of_the_model(tmp_path, settings):
    model = make(**settings)
    export(model, tmp_path / "model.gguf", "gguf")
    found = read_pretrained(tmp_path / "model.gguf")
    assert (logits(build(found)) - logits(build(model))).abs().max() < 1e-4
    if settings.get("bias", True) is not False or settings.get("positions") == "rotary":
        assert found.config == model.config
    tensors = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert ("output.weight" in tensors) is not model.config.tie_head


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "q8_0"])
def test_transformers_reads_the_same_numbers(tmp_path, name, dtype):
    model = make(**SHAPES[name])
    export(model, tmp_path / "model.gguf", "gguf", dtype=dtype)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf", dtype=torch.float32)
    ours = logits(build(read_pretrained(tmp_path / "model.gguf")).float())
    assert (ours - logits(theirs)).abs().max() < 1e-4
    largest = {"float32": 1e-4, "bfloat16": 0.2, "q8_0": 0.5}[dtype]
    assert (ours - logits(build(model))).abs().max() < largest


def test_types_of_matrices_and_of_what_is_none(tmp_path):
    model = make(**{**LLAMA, "mlp_hidden": 40})
    notes = export(model, tmp_path / "model.gguf", "gguf", dtype="q8_0")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.0.attn_q.weight"] == kinds["token_embd.weight"] == "Q8_0"
    assert kinds["blk.0.ffn_down.weight"] == "F16", "rows of 40"
    assert kinds["blk.1.attn_norm.weight"] == "F32"
    assert "2 matrices whose rows are no multiple of 32 were written in float16" in notes
    assert reader.fields["general.file_type"].contents() == 7
    short = replace(model, weights={name: tensor.bfloat16() for name, tensor in model.weights.items()})
    export(short, tmp_path / "model.gguf", "gguf", overwrite=True)
    again = read_pretrained(tmp_path / "model.gguf")
    assert all(torch.equal(again.weights[name], tensor) for name, tensor in short.weights.items())
    half = replace(model, weights={name: tensor.half() for name, tensor in model.weights.items()})
    export(half, tmp_path / "model.gguf", "gguf", overwrite=True)
    tensors = gguf.GGUFReader(tmp_path / "model.gguf").tensors
    assert {tensor.tensor_type.name for tensor in tensors if len(tensor.shape) > 1} == {"F16"}


def test_a_full_disk_is_said_and_what_was_there_stays(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"before")

    def full(*_):
        raise OSError("1024 requested and 0 written")  # as NumPy says it

    monkeypatch.setattr(gguf.GGUFWriter, "write_tensor_data", full)
    with pytest.raises(CheckpointError, match="the disk has no room left"):
        export(make(**SIZES), tmp_path / "model.gguf", "gguf", overwrite=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("model.gguf", b"before")]


def test_a_window_limits_the_context(tmp_path):
    model = make(**LLAMA, sliding_window=40)
    (note, _) = export(model, tmp_path / "model.gguf", "gguf")
    assert "no sliding window: the context was written as 40 positions" in note
    found = read_pretrained(tmp_path / "model.gguf")
    assert (found.config.context_length, found.config.sliding_window) == (40, None)
    assert (logits(build(found)) - logits(build(model))).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({**LLAMA, "activation": "gelu"}, "llama.cpp's llama has no place .*: activation is gelu"),
        ({**SIZES, "activation": "gelu_exact"}, "llama.cpp's gpt2 has no place .*: activation is gelu_exact"),
        ({**SIZES, "scale_scores": False}, "scale_scores is False"),
        ({**LLAMA, "rope_scaling": RopeScaling("yarn", 4.0, 16, length=1.5)}, "a slow, fast or length of its own"),
        ({**LLAMA, "norm": "zero_centered_rms_norm", "scale_embeddings": True}, "is of the family Gemma"),
        ({**LLAMA, "mlp": "plain", "norm": "none"}, "Llama's format has no place"),
    ],
    ids=str,
)
def test_what_llama_cpp_has_no_place_for(tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        export(make(**settings), tmp_path / "model.gguf", "gguf")
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_and_a_missing_package(tmp_path, monkeypatch):
    config = EncoderConfig(**SIZES)
    with pytest.raises(ConfigError, match="this is an encoder"):
        export(Pretrained("llm", config, Encoder(config).state_dict()), tmp_path / "model.gguf", "gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(ConfigError, match=r"pip install 'see-inside-llm\[gguf\]'"):
        export(make(**LLAMA), tmp_path / "model.gguf", "gguf")


TEXTS = ["the  cat's\n\n \t12345 café É😀 WON'T", " ?\n\n a  b<|im_end|>the<|endoftext|>", ""]


def pieces():
    """SentencePiece's pairs with fall-back to bytes."""
    names = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "t",
        "h",
        "e",
        "▁t",
        "he",
        "▁the",
    ]
    scores = [-float(token_id) for token_id in range(len(names))]
    content = scored_pieces(names, scores, "<unk>")
    content["added_tokens"] = [added_token(name, token_id) for token_id, name in enumerate(names[:3])]
    content["post_processor"] = around(("<s>", 1), None)
    return from_definition(content).with_roles(Roles(begin_id=1, end_ids=(2,), unknown_id=0))


def byte_pairs(pattern):
    specials = ("<|endoftext|>", "<|im_end|>")
    vocabulary, special_ids = learn_byte_pairs(["the cat's 12345 sat on the mat"] * 9, 290, pattern, specials, 2)
    found = BytePairTokenizer(vocabulary, special_ids, pattern)
    end, other = (found.special_ids[name] for name in ("<|endoftext|>", "<|im_end|>"))
    return found.with_roles(Roles(end_ids=(end, other), pad_id=end, chat_template="{{ messages }}"))


TOKENIZERS = {
    "of its own": lambda: byte_pairs("gpt2"),
    "of its own, gpt4": lambda: byte_pairs("gpt4"),
    "pieces": pieces,
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_the_tokenizer_is_in_the_file(tmp_path, tokenizer):
    tokenizer = tokenizer()
    settings = {**LLAMA, "n_embd": 32, "vocab_size": tokenizer.vocab_size + 5}
    export(make(tokenizer, **settings), tmp_path / "model.gguf", "gguf")
    found = read_pretrained(tmp_path / "model.gguf").tokenizer
    assert isinstance(found, Tokenizer)
    assert found.vocab_size == tokenizer.vocab_size
    for text in TEXTS:
        assert found.encode(text) == tokenizer.encode(text)
    assert found.encode_prompt("the") == tokenizer.encode_prompt("the")
    assert (found.end_ids, found.chat_template) == (tokenizer.end_ids, tokenizer.chat_template)
    assert (found.roles.pad_id, found.roles.unknown_id) == (tokenizer.roles.pad_id, tokenizer.roles.unknown_id)


def test_a_tokenizer_that_llama_cpp_does_not_have(tmp_path):
    tokenizer = CharTokenizer(sorted("abc"), ())
    notes = export(make(tokenizer, **LLAMA), tmp_path / "model.gguf", "gguf")
    assert any("no tokenizer was written, so that llama.cpp" in note and "WordLevel" in note for note in notes)
    assert read_pretrained(tmp_path / "model.gguf").tokenizer is None


def test_on_the_command_line(tmp_path, capsys):
    export(make(byte_pairs("gpt2"), **{**LLAMA, "vocab_size": 290}), tmp_path / "folder")
    command = ["export", "--ckpt", str(tmp_path / "folder"), "--out", str(tmp_path / "model.gguf")]
    assert main([*command, "--format", "gguf", "--dtype", "q8_0"]) == 0
    assert "written to" in capsys.readouterr().out
    assert main(["generate", "--ckpt", str(tmp_path / "model.gguf"), "--prompt", "the", "--max_new_tokens", "2"]) == 0
    assert main([*command, "--dtype", "q8_0"]) == 1
    assert "--dtype q8_0 is for --format gguf, got --format hf" in capsys.readouterr().err


class LlamaCpp:
    """llama.cpp itself, with a file open."""

    def __init__(self, path):
        xllamacpp = pytest.importorskip("xllamacpp")
        settings = xllamacpp.CommonParams()
        settings.model.path, settings.n_ctx, settings.n_parallel, settings.warmup = str(path), 64, 1, False
        settings.cpuparams.n_threads, settings.verbosity = 1, -1
        settings.cache_type_k = settings.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        self.server = xllamacpp.Server(settings)

    def ask(self, path, **question):
        address, headers = self.server.listening_address + path, {"Content-Type": "application/json"}
        request = urllib.request.Request(address, json.dumps(question).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    def log_probabilities(self, ids):
        """Of each id after these; none where the likeliest is part of a letter, which the server keeps back."""
        found = self.ask("/completion", prompt=ids, n_predict=1, temperature=0, n_probs=1000)
        (first, *_) = found.get("completion_probabilities") or [{"top_logprobs": []}]
        return {token["id"]: token["logprob"] for token in first["top_logprobs"]}


@pytest.mark.parametrize("dtype", ["float32", "q8_0"])
@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_computes_the_same(tmp_path, name, dtype):
    tokenizer = byte_pairs("gpt2")
    V = tokenizer.vocab_size
    model = make(tokenizer, **{**SHAPES[name], "vocab_size": V})
    export(model, tmp_path / "model.gguf", "gguf", dtype=dtype)
    theirs = LlamaCpp(tmp_path / "model.gguf")
    ours = build(model if dtype == "float32" else read_pretrained(tmp_path / "model.gguf")).float()
    n_compared, atol = 0, 0.01 if dtype == "float32" else 0.15  # it rounds what goes into its products as well
    for ids in torch.randint(V, (8, 30), generator=torch.Generator().manual_seed(1)):
        if found := theirs.log_probabilities(ids.tolist()):
            expected = logits(ours, ids[None])[0, -1].log_softmax(dim=-1)
            torch.testing.assert_close(torch.tensor([found[i] for i in range(V)]), expected, atol=atol, rtol=0)
            n_compared += 1
    assert n_compared


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
def test_llama_cpp_splits_a_text_the_same(tmp_path, tokenizer):
    tokenizer = tokenizer()
    settings = {**LLAMA, "n_embd": 32, "vocab_size": tokenizer.vocab_size}
    export(make(tokenizer, **settings), tmp_path / "model.gguf", "gguf")
    theirs = LlamaCpp(tmp_path / "model.gguf")
    for text in TEXTS:
        found = theirs.ask("/tokenize", content=text, add_special=True, parse_special=True)
        assert found["tokens"] == tokenizer.encode_prompt(text)
