"""GGUF files: written here as llama.cpp's converter does, read, and compared with `transformers`."""

import functools
import json
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as FastTokenizer
from torch import nn

from llm.__main__ import main
from llm.errors import CheckpointError
from llm.pretrained import build, export, read_pretrained
from llm.pretrained.gguf.vocabulary import tokenizer_of

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

KINDS = gguf.GGMLQuantizationType
NAMES = {theirs: ours for ours, theirs in {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}.items()}  # fmt: skip
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def make(family="Llama", **settings):
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "head_dim": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    config = getattr(transformers, f"{family}Config")(**(sizes | heads | settings))
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def to_neighbours(rows, n_head):
    """`permute` of llama.cpp's converter."""
    shape = rows.shape
    return rows.reshape(n_head, 2, shape[0] // n_head // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write(model, path, kind=KINDS.F32, metadata=lambda writer: None, leave_out=(), extra=None):
    """The model as a file; its metadata may be added to, and be left out."""
    config, architecture = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, architecture)
    values = {
        "vocab_size": config.vocab_size,
        "context_length": config.max_position_embeddings,
        "block_count": config.num_hidden_layers,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": config.head_dim if hasattr(config, "head_dim") else 8,
        "rope.dimension_count": config.head_dim if hasattr(config, "head_dim") else 8,
    }
    for name, value in values.items():
        if name not in leave_out:
            writer.add_uint32(f"{architecture}.{name}", value)
    writer.add_float32(f"{architecture}.rope.freq_base", config.rope_parameters["rope_theta"])
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", config.rms_norm_eps)
    metadata(writer)
    for theirs, tensor in model.state_dict().items():
        if theirs == "lm_head.weight" and config.tie_word_embeddings:
            continue
        module, parameter = theirs.rsplit(".", 1)
        if module in TOP:
            name = TOP[module]
        else:
            _, _, layer, rest = module.split(".", 3)
            name = f"blk.{layer}.{NAMES[rest]}"
        values = tensor.numpy()
        if architecture == "llama" and name.endswith(("attn_q", "attn_k")):
            n_head = config.num_attention_heads if name.endswith("q") else config.num_key_value_heads
            values = to_neighbours(values, n_head)
        stored = kind if values.ndim > 1 else KINDS.F32
        writer.add_tensor(f"{name}.{parameter}", gguf.quantize(values, stored), raw_dtype=stored)
    for name, values in (extra or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def logits(model, ids):
    with torch.no_grad():
        found = model(ids)
    return found.logits if hasattr(found, "logits") else found


IDS = torch.arange(48).reshape(2, 24) * 5 % 64


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("Llama", {"head_dim": 8}),
        ("Llama", {"tie_word_embeddings": True, "rope_theta": 5e5}),
        ("Llama", {"attention_bias": True, "mlp_bias": True}),
        ("Qwen2", {"tie_word_embeddings": True}),
        ("Qwen3", {}),
    ],
)
def test_logits_are_those_of_the_model_it_was_made_from(tmp_path, family, settings):
    theirs = make(family, **settings)
    found = read_pretrained(write(theirs, tmp_path / "model.gguf"))
    assert found.format == f"GGUF ({family})"
    assert (logits(build(found), IDS) - logits(theirs, IDS)).abs().max() < 1e-4
    assert found.config.norm_epsilon == 1e-6, "as it was before it became float32"


@pytest.mark.parametrize("kind", [KINDS.Q4_1, KINDS.Q8_0, KINDS.F16])
def test_quantized_weights_are_what_transformers_makes_of_them(tmp_path, kind):
    path = write(make(), tmp_path / "model.gguf", kind)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32
    ).eval()
    ours = build(read_pretrained(path))
    assert ours.head.weight.dtype == torch.float32
    assert (logits(ours, IDS) - logits(theirs, IDS)).abs().max() < 1e-4


def test_bfloat16_stays(tmp_path):
    theirs = make()
    for parameter in theirs.parameters():
        parameter.data = parameter.data.bfloat16().float()
    ours = build(read_pretrained(write(theirs, tmp_path / "model.gguf", KINDS.BF16)))
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert (logits(ours.float(), IDS) - logits(theirs, IDS)).abs().max() < 1e-4


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    ],
)
def test_scaled_rotary_positions(tmp_path, scaling):
    theirs = make(rope_parameters={"rope_theta": 1e4, **scaling})

    def add(writer):
        writer.add_string("llama.rope.scaling.type", scaling["rope_type"])
        writer.add_float32("llama.rope.scaling.factor", scaling["factor"])
        if "original_max_position_embeddings" in scaling:
            writer.add_uint32("llama.rope.scaling.original_context_length", 16)

    ours = build(read_pretrained(write(theirs, tmp_path / "model.gguf", metadata=add)))
    assert (logits(ours, IDS) - logits(theirs, IDS)).abs().max() < 1e-4


def test_a_llama_3_scaling_is_found_from_its_factors(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling |= {"original_max_position_embeddings": 8192, "rope_theta": 5e5}
    theirs = make(rope_parameters=scaling, max_position_embeddings=131072)
    plain = 5e5 ** (-torch.arange(0, 16, 2) / 16)
    factors = (plain / theirs.model.rotary_emb.inv_freq).numpy()
    assert len(np.unique(factors.round(2))) > 2, "one of the frequencies between the others"
    path = write(theirs, tmp_path / "model.gguf", extra={"rope_freqs.weight": factors})
    found = read_pretrained(path)
    assert found.config.rope_scaling.kind == "llama3"
    assert (logits(build(found), IDS) - logits(theirs, IDS)).abs().max() < 1e-4
    path = write(theirs, tmp_path / "other.gguf", extra={"rope_freqs.weight": factors * 2})
    with pytest.raises(CheckpointError, match="other factors than a Llama 3's"):
        read_pretrained(path)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"leave_out": ["block_count"]}, "its metadata have no llama.block_count"),
        ({"metadata": lambda writer: writer.add_uint32("llama.expert_count", 8)}, "it has 8 experts"),
        ({"metadata": lambda writer: writer.add_uint16("split.count", 3)}, "is one of 3 parts"),
        ({"leave_out": ["attention.head_count_kv"]}, "self_attn.k_proj.weight (expected (64, 32), found (32, 32))"),
        (
            {"metadata": lambda writer: writer.add_string("llama.rope.scaling.type", "longrope")},
            "rope.scaling.type 'longrope'",
        ),
        ({"extra": {"blk.0.attn_sinks.weight": np.ones(4, np.float32)}}, "not expected: blk.0.attn_sinks.weight"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, capsys, told, message):
    path = write(make(), tmp_path / "model.gguf", **told)
    assert main(["import", "--from", str(path), "--out", str(tmp_path / "out.ckpt")]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert error.count("\n") == 1


def test_another_architecture_and_a_damaged_file(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "mamba.gguf", "mamba")
    writer.add_tensor("token_embd.weight", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match="of the architecture 'mamba'; those that can be read"):
        read_pretrained(tmp_path / "mamba.gguf")
    whole = write(make(), tmp_path / "model.gguf").read_bytes()
    for n_bytes in (4, 20, 400, len(whole) - 100):
        (tmp_path / "cut.gguf").write_bytes(whole[:n_bytes])
        with pytest.raises(CheckpointError, match="is damaged, or no GGUF file"):
            read_pretrained(tmp_path / "cut.gguf")


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    path = write(make(), tmp_path / "model.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(CheckpointError, match=r"pip install 'see-inside-llm\[gguf\]'"):
        read_pretrained(path)


WORDS = ["the cat sat on the mat, and 12345 cats sat there too.\n\n  It's HERE'S: café"] * 3
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)


@functools.cache
def fast(split):
    """A byte-level tokenizer of Hugging Face's that splits a text as the named model's does."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split in ("gpt-2", "smollm"))
    before = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "llama-bpe": [pre_tokenizers.Split(Regex(GPT4), "isolated")],
        "qwen2": [pre_tokenizers.Split(Regex(GPT4.replace("{1,3}", "")), "isolated")],
    }[split]
    found = FastTokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.Sequence([*before, level])
    found.decoder = decoders.ByteLevel()
    if split == "qwen2":
        found.normalizer = normalizers.NFC()
    specials = [AddedToken(name, normalized=False) for name in ("<|im_start|>", "<|im_end|>")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    found.train_from_iterator(WORDS, trainer)
    return found


@functools.cache
def as_metadata(split):
    model = json.loads(fast(split).to_str())["model"]
    names = sorted(model["vocab"], key=model["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": split,
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": [3 if name.startswith("<|im_") else 1 for name in names],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 1,
        "tokenizer.chat_template": "{{ messages }}",
    }


@given(
    split=st.sampled_from(["gpt-2", "smollm", "llama-bpe", "qwen2"]),
    text=st.text(max_size=20) | st.text(st.sampled_from("the cat123's\n <|im_end|>É"), max_size=30),
)
def test_byte_pairs_give_the_ids_of_the_tokenizer_that_they_were_made_from(split, text):
    ours = tokenizer_of(as_metadata(split))
    assert ours.encode(text) == fast(split).encode(text, add_special_tokens=False).ids


def test_what_the_special_tokens_are_for():
    found = tokenizer_of(as_metadata("smollm"))
    assert found.special_ids == {"<|im_start|>": 0, "<|im_end|>": 1}
    assert (found.roles.begin_id, found.end_ids, found.roles.pad_id) == (0, (1,), 1)
    assert found.chat_template == "{{ messages }}"
    assert found.encode_prompt("the") == found.encode("the"), "nothing before it where nothing says so"
    told = tokenizer_of(as_metadata("smollm") | {"tokenizer.ggml.add_bos_token": True})
    assert told.encode_prompt("the") == [0, *found.encode("the")]
    assert tokenizer_of(as_metadata("llama-bpe")).encode_prompt("the")[0] == 0, "which says so by its name"


@pytest.mark.parametrize("stated", [3, True, ["{{ messages }}"], " \n"])
def test_what_is_no_chat_template_is_none(stated):
    assert tokenizer_of(as_metadata("smollm") | {"tokenizer.chat_template": stated}).chat_template is None


def test_pieces_with_scores():
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁a", "ab", "▁", "a", "b"]
    kinds = [2, 3, 3, *[6] * 256, *[1] * 5]
    own = {"model": "llama", "tokens": pieces, "token_type": kinds, "bos_token_id": 1, "eos_token_id": 2}
    own["scores"] = [0.0] * 259 + [-math.inf if kind != 1 else -float(rank) for rank, kind in enumerate(kinds[259:])]
    found = tokenizer_of({f"tokenizer.ggml.{name}": value for name, value in own.items()})
    assert found.encode_prompt("abab\n") == [1, 259, 263, 260, 3 + 10], "▁a is better than ab"
    assert found.decode(found.encode("abab\n")) == "abab\n"
    own["add_space_prefix"] = False
    found = tokenizer_of({f"tokenizer.ggml.{name}": value for name, value in own.items()})
    assert found.encode("ab ab") == [260, 259, 263]


def test_a_file_with_its_tokenizer(tmp_path):
    def add(writer, metadata):
        for name, value in metadata.items():
            if isinstance(value, list):
                writer.add_array(name, value)
            else:
                (writer.add_uint32 if isinstance(value, int) else writer.add_string)(name, value)

    metadata, theirs = as_metadata("smollm"), make(vocab_size=352)
    found = read_pretrained(write(theirs, tmp_path / "model.gguf", metadata=lambda writer: add(writer, metadata)))
    assert found.tokenizer.encode("the cat") == fast("smollm").encode("the cat").ids
    assert (found.config.vocab_size, len(found.weights["head.weight"])) == (found.tokenizer.vocab_size, 352)
    export(found, tmp_path / "exported")
    reopened = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    assert reopened("the cat 123<|im_end|>").input_ids == found.tokenizer.encode("the cat 123<|im_end|>")
    assert (reopened.chat_template, reopened.eos_token) == ("{{ messages }}", "<|im_end|>")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    assert (logits(model, IDS) - logits(theirs, IDS)[..., : found.config.vocab_size]).abs().max() < 1e-4
    metadata = metadata | {"tokenizer.ggml.pre": "of-tomorrow"}
    found = read_pretrained(write(theirs, tmp_path / "other.gguf", metadata=lambda writer: add(writer, metadata)))
    assert found.tokenizer is None
    assert "'of-tomorrow'; those that can be read are 'llama', and 'gpt2' with gpt-2, smollm" in found.notes[0]
