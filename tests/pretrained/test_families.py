"""Llama, Mistral, Qwen, Gemma, GPT-NeoX and OPT: ours against transformers', both ways, with tiny random weights."""

import copy
import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llm.config import GPTConfig, RopeScaling, SamplingConfig
from llm.errors import CheckpointError, ConfigError
from llm.generation import generate
from llm.model import GPT
from llm.pretrained import Pretrained, adapt, build, export, read_pretrained
from llm.pretrained.families import FAMILIES, read
from llm.pretrained.layout import clean_names
from llm.tokenizers import CharTokenizer

transformers = pytest.importorskip("transformers")

V, T = 61, 40
SIZES = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 48,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
GEMMA2 = {"head_dim": 10, "query_pre_attn_scalar": 10, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}
SHAPES = [
    ("Llama", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    ("Llama", {"head_dim": 10, "num_key_value_heads": 1, "rope_theta": 5e5}),
    ("Llama", {"attention_bias": True, "mlp_bias": True}),
    ("Llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    ("Llama", {"rope_scaling": LLAMA3, "head_dim": 32}),
    ("Llama", {"rope_scaling": YARN, "head_dim": 32}),
    ("Llama", {"rope_scaling": {**YARN, "attention_factor": 1.3, "beta_fast": 8.0, "beta_slow": 0.5}, "head_dim": 32}),
    ("Mistral", {"sliding_window": 5}),
    ("Mistral", {"sliding_window": None, "num_key_value_heads": 4, "head_dim": 8}),
    ("Qwen2", {"tie_word_embeddings": True}),
    ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    ("Qwen3", {"head_dim": 10}),
    ("Qwen3", {"head_dim": 8, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    ("Gemma", {"head_dim": 10, "num_key_value_heads": 1}),
    ("Gemma2", {**GEMMA2, "sliding_window": 5}),
    ("Gemma2", {**GEMMA2, "layer_types": ["full_attention"] * 3, "final_logit_softcapping": None}),
    ("GPTNeoX", {"hidden_size": 32, "rotary_emb_base": 500}),
    ("GPTNeoX", {"use_parallel_residual": False, "rotary_pct": 1.0, "tie_word_embeddings": True}),
    ("OPT", {"ffn_dim": 40}),
    ("OPT", {"ffn_dim": 96, "tie_word_embeddings": False, "activation_function": "gelu"}),
]


@pytest.fixture
def make(tmp_path):
    """Makes a random model of a family in a folder, and gives the model and the folder."""

    def make(family="Llama", name="theirs", dtype=torch.float32, **settings):
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**(SIZES | copy.deepcopy(settings)))
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval().requires_grad_(False)
        for parameter in model.parameters():  # large enough for every part of the model to matter
            nn.init.normal_(parameter, std=0.3)
        if family == "OPT":  # no token uses these two rows, which are not kept
            model.model.decoder.embed_positions.weight[:2] = 0
        model.save_pretrained(tmp_path / name)
        return model, tmp_path / name

    return make


def change(folder, **settings):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def some_ids(rows=2, length=T):
    return torch.randint(V, (rows, length), generator=torch.Generator().manual_seed(1))


def bytes_of(folder):
    tensors = load_file(folder / "model.safetensors")
    return {name: (tensor.dtype, tensor.view(torch.uint8).numpy().tobytes()) for name, tensor in tensors.items()}


@pytest.mark.parametrize(("family", "settings"), SHAPES, ids=str)
def test_logits_and_bytes_are_theirs_and_back(make, tmp_path, family, settings):
    theirs, folder = make(family, **settings)
    found = read_pretrained(folder)
    ours, ids = build(found).eval(), some_ids()
    expected = theirs(ids).logits
    torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)
    export(found, tmp_path / "back")
    assert bytes_of(tmp_path / "back") == bytes_of(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    torch.testing.assert_close(again(ids).logits, expected, atol=1e-6 * max(1, expected.abs().max().item()), rtol=0)
    assert read_pretrained(tmp_path / "back").config == found.config
    off = {
        "rope_scaling": RopeScaling(),
        "sliding_window": None,
        "full_attention_layers": (),
        "partial_rotary_factor": 1.0,
        "parallel_residual": False,
        "attention_softcap": None,
        "logit_softcap": None,
        "scale_embeddings": False,
    }
    if (plain := replace(found.config, **off)) != found.config:  # they matter: without them the logits are others
        other = GPT(plain).eval()
        other.load_state_dict(ours.state_dict())
        assert not torch.allclose(other(ids), expected, atol=1e-3)


@pytest.mark.parametrize(("family", "settings"), [SHAPES[index] for index in (4, 7, 10, 12, 14, 16, 18)], ids=str)
def test_greedy_text_past_the_window(make, family, settings):
    theirs, folder = make(family, **settings)
    ours, prompt = build(read_pretrained(folder)).eval(), some_ids(1, 4)
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=T, pad_token_id=0
    )[0, 4:].tolist()
    sampling = SamplingConfig(temperature=0.0, max_new_tokens=T)
    assert list(generate(ours, prompt[0], sampling)) == expected
    text = prompt[0].tolist()
    for token in expected:  # and without a cache
        assert int(ours(torch.tensor([text]))[0, -1].argmax()) == token
        text.append(token)


@pytest.mark.parametrize("family", ["GPT2", *(family.name for family in FAMILIES.values())])
def test_a_pipeline_opens_the_export_and_writes_what_we_do(make, tmp_path, family):
    sizes = {"hidden_size": 32} if family in ("GPT2", "GPTNeoX", "OPT") else {"head_dim": 8, "query_pre_attn_scalar": 8}
    found = read_pretrained(make(family, **sizes)[1])
    plain = {name: 0 * tensor for name, tensor in found.weights.items() if "bias" in name}
    plain["final_norm.weight"] = torch.ones_like(found.weights["final_norm.weight"])
    tokenizer = CharTokenizer([chr(65 + n) for n in range(V)])
    found = replace(found, weights={**found.weights, **plain}, tokenizer=tokenizer)  # not the same token on and on
    export(found, tmp_path / "out")
    pipeline = transformers.pipeline("text-generation", str(tmp_path / "out"))
    assert type(pipeline.model).__name__.startswith(family)
    ours, sampling, prompts = build(found).eval(), SamplingConfig(temperature=0.0, max_new_tokens=8), ["KEPT", "LATE"]
    written = pipeline(prompts, max_new_tokens=8, do_sample=False, return_full_text=False)
    ids = [list(generate(ours, torch.tensor(tokenizer.encode(prompt)), sampling)) for prompt in prompts]
    assert ids[0] != ids[1]
    assert [answers[0]["generated_text"] for answers in written] == [tokenizer.decode(some) for some in ids]


@pytest.mark.parametrize("family", ["Llama", "Mistral", "Qwen2", "Qwen3", "Gemma", "Gemma2", "GPTNeoX", "OPT"])
def test_bfloat16_stays_and_is_as_close_as_theirs_is_to_itself(make, tmp_path, family):
    sizes = {"hidden_size": 32} if family in ("GPTNeoX", "OPT") else {"head_dim": 8, "query_pre_attn_scalar": 8}
    theirs, folder = make(family, dtype=torch.bfloat16, **sizes)
    found, ids = read_pretrained(folder), some_ids()
    ours = build(found).eval()
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    in_float32 = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    short, exact = theirs(ids).logits.float(), in_float32(ids).logits
    own = (short - exact).abs().max().item()
    torch.testing.assert_close(ours(ids).float(), exact, atol=max(0.1, 2 * own), rtol=0)
    export(found, tmp_path / "back")
    assert bytes_of(tmp_path / "back") == bytes_of(folder)
    torch.testing.assert_close(ours.float()(ids), exact, atol=1e-4, rtol=0)


def test_a_network_holds_the_tensors_of_its_file(make):
    _, folder = make(tie_word_embeddings=True)
    found = read_pretrained(folder)
    network = build(found)
    name = "blocks.0.mlp.gate.weight"
    assert network.state_dict()[name].data_ptr() == found.weights[name].data_ptr()
    assert network.head.weight is network.embeddings.token.weight
    tables = {block.attention.rotary for block in network.blocks}
    assert len(tables) == 1, "one table of angles, however many layers"


def test_tensors_may_come_one_at_a_time(make):
    """What other formats rely on: a config and a mapping that makes each tensor when it is asked for, once."""
    _, folder = make("Qwen3", head_dim=10)
    tensors = clean_names(load_file(folder / "model.safetensors"))
    looked_up = []

    class Lazy(dict):
        def __getitem__(self, name):
            looked_up.append(name)
            return tensors[name]

        def items(self):
            raise AssertionError("all at once")

        values = items

    settings = json.loads((folder / "config.json").read_text())
    found = read(settings, Lazy.fromkeys(tensors), "x.gguf")
    assert sorted(looked_up) == sorted(tensors)
    expected = read_pretrained(folder)
    assert found.config == expected.config
    assert all(torch.equal(found.weights[name], tensor) for name, tensor in expected.weights.items())


def test_shards(make, tmp_path):
    theirs, folder = make()
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    whole, parts = read_pretrained(folder), read_pretrained(tmp_path / "shards")
    assert whole.config == parts.config
    assert all(torch.equal(parts.weights[name], tensor) for name, tensor in whole.weights.items())


def test_the_names_of_transformers_4_are_read(make):
    _, folder = make(rope_scaling=LLAMA3, rope_theta=5e5)
    new = read_pretrained(folder).config
    settings = json.loads((folder / "config.json").read_text())
    parameters = settings.pop("rope_parameters")
    settings |= {"rope_theta": parameters.pop("rope_theta"), "rope_scaling": parameters, "torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(settings))
    assert read_pretrained(folder).config == new
    assert new.rope_theta == 5e5
    assert new.rope_scaling == RopeScaling("llama3", 8.0, 48)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: family.name)
def test_what_a_config_does_not_say_is_as_in_transformers(family):
    sizes = {"hidden_size": 256, "num_attention_heads": 32}
    theirs = getattr(transformers, f"{family.name}Config")(**sizes).to_dict()
    ours = family.config_from_json(sizes, "x")
    assert ours == family.config_from_json(theirs, "x")
    assert ours.vocab_size == theirs["vocab_size"]
    assert ours.hidden_size == theirs["ffn_dim" if family.name == "OPT" else "intermediate_size"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model_type": "mamba", "architectures": ["MambaForCausalLM"]}, r"is a Mamba \(model_type 'mamba'\), which"),
        ({"model_type": "opt"}, "missing: decoder.embed_tokens.weight"),
        ({"model_type": "gemma2"}, "with head_dim 6 and query_pre_attn_scalar 256"),
        ({"model_type": "gemma2", "query_pre_attn_scalar": 6, "num_hidden_layers": 10**12}, "n_layer must be at most"),
        ({"model_type": "gemma3_text"}, r"\(model_type 'gemma3_text'\), which"),
        ({"model_type": "olmo2", "architectures": None}, r"is an olmo2 \(model_type 'olmo2'\), which"),
        ({"model_type": 3}, "model_type 3"),
        ({"model_type": "qwen2"}, r"missing: layers\.0\.self_attn\.q_proj\.bias"),
        ({"model_type": "qwen3"}, r"missing: layers\.0\.self_attn\.q_norm\.weight"),
        ({"model_type": "gpt2"}, "missing: wte.weight"),
        ({"hidden_act": "gelu_10"}, "is a Llama .* with hidden_act 'gelu_10'"),
        ({"attention_bias": True}, "is a Llama .* with attention_bias True and mlp_bias False"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "is a Llama .* is of the type 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7}}, "rope_parameters has mscale 0.7"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 0.5}},
            "factor must be at least 1, at most 1e18, got 0.5",
        ),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling is of the type 'linear' and has no factor"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 1e300}}, r"at most 1e18, got 1e\+300"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "rope_parameters has full_attention"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"bits": 4}}, "is a Llama .* with quantization_config"),
        ({"num_key_value_heads": 3}, "n_head must be divisible by n_kv_head"),
        ({"num_attention_heads": 0}, "n_head must be at least 1"),
        ({"hidden_size": "24"}, r"n_embd must be an integer, got '24' \(in config.json n_embd is hidden_size\)"),
        ({"hidden_size": None}, "n_embd must be an integer, got None"),
        ({"rms_norm_eps": float("nan")}, "norm_epsilon must be a number, got nan"),
        ({"rms_norm_eps": 10**30}, "norm_epsilon must be above 0, at most 1"),
        ({"intermediate_size": 48}, r"layers\.0\.mlp\.up_proj\.weight \(expected \(48, 24\), found \(40, 24\)\)"),
        ({"num_hidden_layers": 2}, r"not expected: layers\.2"),
        ({"tie_word_embeddings": True}, "the tensors lm_head.weight and embed_tokens.weight differ"),
    ],
    ids=str,
)
def test_a_config_that_does_not_fit_is_named_in_one_line(make, settings, message):
    _, folder = make()
    if "rope_scaling" in settings:
        change(folder, rope_parameters=None)
    change(folder, **settings)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_pretrained(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_type_decides_whatever_the_tensors_look_like(hugging_face):
    _, folder = hugging_face()
    change(folder, model_type="gpt_bigcode", architectures=["GPTBigCodeForCausalLM"], multi_query=False)
    with pytest.raises(CheckpointError, match=r"is a GPTBigCode \(model_type 'gpt_bigcode'\), which"):
        read_pretrained(folder)


def test_other_spellings_of_gpt2s_sizes(hugging_face):
    _, folder = hugging_face()
    expected = read_pretrained(folder).config
    settings = json.loads((folder / "config.json").read_text())
    spelled = {"n_embd": "hidden_size", "n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}
    spelled |= {"n_positions": "max_position_embeddings"}
    settings = {spelled.get(name, name): value for name, value in settings.items() if name != "n_ctx"}
    (folder / "config.json").write_text(json.dumps(settings))
    assert read_pretrained(folder).config == expected


def test_what_gemmas_published_config_says_is_the_tanh_approximation(make, tmp_path):
    _, folder = make("Gemma", head_dim=6)
    change(folder, hidden_act="gelu")
    found = read_pretrained(folder)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    exact = replace(found, config=replace(found.config, activation="gelu_exact"))
    expected = theirs(some_ids()).logits
    torch.testing.assert_close(build(found).eval()(some_ids()), expected, atol=1e-4, rtol=0)
    assert not torch.allclose(build(exact).eval()(some_ids()), expected, atol=1e-3)
    with pytest.raises(ConfigError, match=r"Gemma's format has no place .*: activation is gelu_exact"):
        export(exact, tmp_path / "out")


def test_weights_without_a_config(make):
    _, folder = make()
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json with a model_type beside them"):
        read_pretrained(folder)


def test_broken_folders(make, tmp_path):
    theirs, folder = make()
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=rf"names the file '{shards[1].name}', which is missing"):
        read_pretrained(tmp_path / "shards")
    shutil.copy(shards[0], shards[1])
    with pytest.raises(CheckpointError, match="do not name the same tensors"):
        read_pretrained(tmp_path / "shards")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.embed_tokens.weight": "none.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names the file 'none\.safetensors', which is missing"):
        read_pretrained(tmp_path / "shards")
    for dtype in (torch.int8, torch.float8_e4m3fn):
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"] = tensors["model.norm.weight"].to(dtype)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        with pytest.raises(CheckpointError, match=rf"norm\.weight \(expected \(24,\), found \(24,\) of {dtype}\)"):
            read_pretrained(folder)
        theirs.save_pretrained(folder)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"qk_norm": True}, "Llama's format has no place .*: qk_norm is True"),
        ({"bias": True}, "Llama's format has no place .*: qkv_bias is False and bias True"),
        ({"causal": False}, "Llama's .*: causal is False"),
        ({"scale_scores": False}, "Llama's .*: scale_scores is False"),
        ({"sliding_window": 4, "full_attention_layers": (0,), "qkv_bias": False}, "Llama's .*: sliding_window is 4"),
        ({"mlp": "none"}, "Llama's .*: mlp is none"),
    ],
    ids=str,
)
def test_what_stands_in_the_way_of_an_export_is_named(tmp_path, settings, message):
    llama = {"positions": "rotary", "norm": "rms_norm", "mlp": "gated", "activation": "silu"}
    sizes = {"vocab_size": 7, "context_length": 8, "n_layer": 1, "n_head": 2, "n_embd": 8}
    config = GPTConfig(**(sizes | llama | {"bias": False, "qkv_bias": False} | settings))
    with pytest.raises(ConfigError, match=message):
        export(Pretrained("llm", config, GPT(config).state_dict()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_may_adapt_them(make):
    _, folder = make("Qwen3", head_dim=10, tie_word_embeddings=True)
    found = read_pretrained(folder)
    ids = some_ids(length=16)
    settings = found.config.to_dict() | {"context_length": 16, "vocab_multiple": 64, "dropout": 0.1}
    adapted = build(adapt(found, GPTConfig(**settings))).eval()
    torch.testing.assert_close(adapted(ids), build(found).eval()(ids))


@pytest.mark.parametrize(
    ("settings", "family"),
    [({"positions": "rotary"}, "GPTNeoX"), ({"activation": "squared_relu"}, "OPT"), ({"activation": "relu"}, "GPT2")],
    ids=str,
)
def test_what_is_of_no_family_is_written_as_one_that_can_hold_it(tmp_path, settings, family):
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=V, context_length=16, n_layer=2, n_head=2, n_embd=16, **settings)).eval()
    export(Pretrained("llm", model.config, model.state_dict()), tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(theirs).__name__.startswith(family)
    torch.testing.assert_close(theirs(some_ids(length=16)).logits, model(some_ids(length=16)), atol=1e-5, rtol=0)
