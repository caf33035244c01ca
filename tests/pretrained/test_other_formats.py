"""nanoGPT, minGPT and the book: state dicts by their documented names, and what their models compute from them.

The references are written from those models' own forward passes, so that a matrix the wrong way round, heads in
another order or another GELU shows.
"""

import json
import math

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from llm.errors import CheckpointError
from llm.pretrained import build, export, read_pretrained
from llm.pretrained.layout import expected_shapes
from llm.tokenizers import BPETokenizer

V, T, L, H, C = 29, 10, 2, 2, 8


def random(*shape):
    return torch.randn(*shape) * 0.3


# nanoGPT and minGPT


def nanogpt_state(bias=True, vocab_size=V, mask=False):
    """The state dict of nanoGPT's `GPT`: nn.Linear throughout, `lm_head` shares `wte`."""
    state = {"transformer.wte.weight": random(vocab_size, C), "transformer.wpe.weight": random(T, C)}
    for layer in range(L):
        at = f"transformer.h.{layer}"
        for name, n_out, n_in in (
            ("attn.c_attn", 3 * C, C),
            ("attn.c_proj", C, C),
            ("mlp.c_fc", 4 * C, C),
            ("mlp.c_proj", C, 4 * C),
        ):
            state[f"{at}.{name}.weight"] = random(n_out, n_in)
            if bias:
                state[f"{at}.{name}.bias"] = random(n_out)
        if mask:
            state[f"{at}.attn.bias"] = torch.ones(1, 1, T, T).tril()
    for name in [f"transformer.h.{layer}.ln_{number}" for layer in range(L) for number in (1, 2)] + [
        "transformer.ln_f"
    ]:
        state[f"{name}.weight"] = random(C)
        if bias:
            state[f"{name}.bias"] = random(C)
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def attend(q, k, v):
    """Causal attention of (B, T, C) with H heads, head by head."""
    size, heads = C // H, []
    for head in range(H):
        q_h, k_h, v_h = (x[..., head * size : (head + 1) * size] for x in (q, k, v))
        scores = q_h @ k_h.transpose(1, 2) / math.sqrt(size)
        future = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
        heads.append(scores.masked_fill(future, -math.inf).softmax(-1) @ v_h)
    return torch.cat(heads, dim=-1)


def nanogpt_forward(state, ids, gelu):
    def get(name):
        return state.get(f"transformer.{name}")

    def linear(x, name):
        return F.linear(x, get(f"{name}.weight"), get(f"{name}.bias"))

    def norm(x, name):
        return F.layer_norm(x, (C,), get(f"{name}.weight"), get(f"{name}.bias"), 1e-5)

    x = get("wte.weight")[ids] + get("wpe.weight")[: ids.shape[1]]
    for layer in range(L):
        q, k, v = linear(norm(x, f"h.{layer}.ln_1"), f"h.{layer}.attn.c_attn").split(C, dim=2)
        x = x + linear(attend(q, k, v), f"h.{layer}.attn.c_proj")
        hidden = gelu(linear(norm(x, f"h.{layer}.ln_2"), f"h.{layer}.mlp.c_fc"))
        x = x + linear(hidden, f"h.{layer}.mlp.c_proj")
    return norm(x, "ln_f") @ state["lm_head.weight"].T


def new_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def nanogpt_checkpoint(state, **args):
    model_args = {
        "n_layer": L,
        "n_head": H,
        "n_embd": C,
        "block_size": T,
        "bias": True,
        "vocab_size": V,
        "dropout": 0.0,
    }
    return {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.95)}]},
        "model_args": model_args | args,
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.47),
        "config": {"out_dir": "out", "eval_interval": 250, "device": "cuda"},
    }


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod."])
def test_nanogpt(tmp_path, bias, prefix):
    torch.manual_seed(0)
    state = nanogpt_state(bias)
    named = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    torch.save(nanogpt_checkpoint(named, bias=bias), tmp_path / "ckpt.pt")
    for source in (tmp_path, tmp_path / "ckpt.pt"):
        found = read_pretrained(source)
        ids = torch.randint(V, (3, T))
        with torch.no_grad():
            logits = build(found).eval()(ids)
        torch.testing.assert_close(logits, nanogpt_forward(state, ids, F.gelu), atol=1e-5, rtol=1e-4)
    assert (found.config.bias, found.config.activation, found.config.tie_head) == (bias, "gelu_exact", True)
    assert found.tokenizer is None


def test_nanogpt_with_its_padded_vocabulary(tmp_path):
    torch.manual_seed(0)
    state = nanogpt_state(vocab_size=50304)
    torch.save(nanogpt_checkpoint(state, vocab_size=50304), tmp_path / "ckpt.pt")
    found = read_pretrained(tmp_path / "ckpt.pt")
    assert found.tokenizer == BPETokenizer("gpt2")
    assert (found.config.vocab_size, found.config.padded_vocab_size) == (50257, 50304)
    assert torch.equal(found.weights["head.weight"], state["lm_head.weight"])
    assert any("last 47 of 50304 rows" in note for note in found.notes)
    ids = torch.randint(50257, (2, T))
    with torch.no_grad():
        logits = build(found).eval()(ids)
    torch.testing.assert_close(logits, nanogpt_forward(state, ids, F.gelu)[..., :50257], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"n_layer": 3}, r"missing: h\.2\."),
        ({"bias": False}, r"not expected: h\.0\.attn\.c_attn\.bias"),
        ({"n_head": 3}, "divisible by n_head"),
        ({"block_size": None}, "describe no model"),
    ],
)
def test_nanogpt_arguments_that_do_not_fit(tmp_path, args, message):
    torch.save(nanogpt_checkpoint(nanogpt_state(), **args), tmp_path / "ckpt.pt")
    with pytest.raises(CheckpointError, match=message):
        read_pretrained(tmp_path)


def test_an_older_nanogpt_had_another_gelu(tmp_path):
    torch.manual_seed(0)
    state = nanogpt_state()
    torch.save(nanogpt_checkpoint(state), tmp_path / "ckpt.pt")
    ids = torch.randint(V, (3, T))
    with torch.no_grad():
        logits = build(read_pretrained(tmp_path, {"activation": "gelu"})).eval()(ids)
    torch.testing.assert_close(logits, nanogpt_forward(state, ids, new_gelu), atol=1e-5, rtol=1e-4)


def test_mingpt(tmp_path):
    torch.manual_seed(0)
    state = nanogpt_state(mask=True)
    state["lm_head.weight"] = random(V, C)  # minGPT shares nothing
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="--n_head"):
        read_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"system": {}, "model": {"model_type": None, "n_head": H}}))
    found = read_pretrained(tmp_path)
    ids = torch.randint(V, (3, T))
    with torch.no_grad():
        logits = build(found).eval()(ids)
    torch.testing.assert_close(logits, nanogpt_forward(state, ids, new_gelu), atol=1e-5, rtol=1e-4)
    assert not found.config.tie_head


def test_old_mingpt(tmp_path):
    torch.manual_seed(0)
    new = nanogpt_state()
    new["lm_head.weight"] = random(V, C)
    old = {
        "tok_emb.weight": new["transformer.wte.weight"],
        "pos_emb": new["transformer.wpe.weight"][None],
        "ln_f.weight": new["transformer.ln_f.weight"],
        "ln_f.bias": new["transformer.ln_f.bias"],
        "head.weight": new["lm_head.weight"],
    }
    for layer in range(L):
        old[f"blocks.{layer}.attn.mask"] = torch.ones(1, 1, T, T).tril()
        for kind in ("weight", "bias"):
            qkv = new[f"transformer.h.{layer}.attn.c_attn.{kind}"].chunk(3)
            for name, part in zip(("query", "key", "value"), qkv, strict=True):
                old[f"blocks.{layer}.attn.{name}.{kind}"] = part.clone()
            for theirs, name in (
                ("attn.proj", "attn.c_proj"),
                ("mlp.0", "mlp.c_fc"),
                ("mlp.2", "mlp.c_proj"),
                ("ln1", "ln_1"),
                ("ln2", "ln_2"),
            ):
                old[f"blocks.{layer}.{theirs}.{kind}"] = new[f"transformer.h.{layer}.{name}.{kind}"]
    torch.save(old, tmp_path / "model.pt")
    ids = torch.randint(V, (3, T))
    with torch.no_grad():
        logits = build(read_pretrained(tmp_path, {"n_head": H})).eval()(ids)
    torch.testing.assert_close(logits, nanogpt_forward(new, ids, F.gelu), atol=1e-5, rtol=1e-4)


# The book


def book_state(qkv_bias=False):
    """The state dict of the book's `GPTModel`."""
    state = {"tok_emb.weight": random(V, C), "pos_emb.weight": random(T, C), "out_head.weight": random(V, C)}
    for layer in range(L):
        at = f"trf_blocks.{layer}"
        for name in ("W_query", "W_key", "W_value"):
            state[f"{at}.att.{name}.weight"] = random(C, C)
            if qkv_bias:
                state[f"{at}.att.{name}.bias"] = random(C)
        state[f"{at}.att.mask"] = torch.ones(T, T).triu(1)
        for name, n_out, n_in in (("att.out_proj", C, C), ("ff.layers.0", 4 * C, C), ("ff.layers.2", C, 4 * C)):
            state[f"{at}.{name}.weight"], state[f"{at}.{name}.bias"] = random(n_out, n_in), random(n_out)
        for name in ("norm1", "norm2"):
            state[f"{at}.{name}.scale"], state[f"{at}.{name}.shift"] = random(C), random(C)
    state["final_norm.scale"], state["final_norm.shift"] = random(C), random(C)
    return state


def book_forward(state, ids):
    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)

    def norm(x, name):
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5)
        return state[f"{name}.scale"] * x + state[f"{name}.shift"]

    x = state["tok_emb.weight"][ids] + state["pos_emb.weight"][: ids.shape[1]]
    for layer in range(L):
        at = f"trf_blocks.{layer}"
        y = norm(x, f"{at}.norm1")
        q, k, v = (linear(y, f"{at}.att.{name}") for name in ("W_query", "W_key", "W_value"))
        x = x + linear(attend(q, k, v), f"{at}.att.out_proj")
        hidden = new_gelu(linear(norm(x, f"{at}.norm2"), f"{at}.ff.layers.0"))
        x = x + linear(hidden, f"{at}.ff.layers.2")
    return linear(norm(x, "final_norm"), "out_head")


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("wrapped", [True, False])
def test_the_book(tmp_path, qkv_bias, wrapped):
    torch.manual_seed(0)
    state = book_state(qkv_bias)
    optimizer = {"optimizer_state_dict": {"state": {}, "param_groups": []}}
    torch.save({"model_state_dict": state, **optimizer} if wrapped else state, tmp_path / "model.pth")
    found = read_pretrained(tmp_path / "model.pth", {"n_head": H})
    assert (found.config.bias, found.config.qkv_bias, found.config.tie_head) == (True, qkv_bias, False)
    ids = torch.randint(V, (3, T))
    with torch.no_grad():
        logits = build(found).eval()(ids)
    torch.testing.assert_close(logits, book_forward(state, ids), atol=1e-5, rtol=1e-4)


def test_the_book_in_safetensors_and_for_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    state = book_state()
    save_file(state, tmp_path / "model.safetensors")
    export(read_pretrained(tmp_path / "model.safetensors", {"n_head": H}), tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.randint(V, (3, T))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, book_forward(state, ids), atol=1e-5, rtol=1e-4)


def test_every_tensor_of_the_book_that_does_not_fit_is_listed(tmp_path):
    state = book_state()
    del state["trf_blocks.1.att.W_key.weight"], state["trf_blocks.0.ff.layers.2.bias"]
    state["trf_blocks.0.norm1.scale"] = torch.zeros(C + 1)
    state["lora.A"] = torch.zeros(1)
    torch.save(state, tmp_path / "model.pth")
    with pytest.raises(CheckpointError) as caught:
        read_pretrained(tmp_path / "model.pth", {"n_head": H})
    message = str(caught.value)
    assert "missing: trf_blocks.0.ff.layers.2.bias, trf_blocks.1.att.W_key.weight;" in message
    assert "not expected: lora.A;" in message
    assert "trf_blocks.0.norm1.scale (expected (8,), found (9,))" in message


def test_no_tensor_of_a_gpt_is_forgotten():
    torch.manual_seed(0)
    from llm.config import GPTConfig
    from llm.pretrained import book, huggingface, nanogpt

    for layout in (huggingface.LAYOUT, nanogpt.LAYOUT, nanogpt.OLD_MINGPT_LAYOUT, book.LAYOUT):
        names = [theirs for ours in expected_shapes(GPTConfig(n_layer=3)) for theirs in layout.names(ours)]
        assert len(names) == len(set(names))


# What can't be read


class Code:
    def __reduce__(self):
        return (print, ("this code ran",))


def damaged(folder, name):
    path = folder / name
    match name:
        case "code.pt":
            torch.save({"model": nanogpt_state(), "extra": Code()}, path)
        case "cut.pt":
            torch.save(nanogpt_state(), path)
            path.write_bytes(path.read_bytes()[:-2000])
        case "cut.safetensors":
            save_file({"wte.weight": random(V, C)}, path)
            path.write_bytes(path.read_bytes()[:-8])
        case "text.pt":
            path.write_text("hello")
        case "empty.safetensors":
            path.write_bytes(b"")
        case "list.pt":
            torch.save([1, 2], path)
        case "other.safetensors":
            save_file({"model.layers.0.weight": random(2, 2)}, path)
        case "lone.safetensors":
            save_file({"wte.weight": random(V, 768), "h.11.attn.c_attn.weight": random(768, 2304)}, path)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("code.pt", "not opened"),
        ("cut.pt", "damaged|not opened"),
        ("cut.safetensors", "damaged"),
        ("text.pt", "damaged, or holds no weights: KeyError"),
        ("empty.safetensors", "damaged"),
        ("list.pt", "no state dict in it"),
        ("other.safetensors", "format is not known"),
        ("lone.safetensors", r"missing: wpe\.weight, h\.0\.ln_1"),
        ("gone.pt", "there is no file or folder"),
    ],
)
def test_files_that_can_not_be_read(tmp_path, capsys, name, message):
    path = damaged(tmp_path, name)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_pretrained(path)
    assert str(path) in str(caught.value)
    assert "this code ran" not in capsys.readouterr().out


def test_a_folder_without_weights_says_what_it_holds(tmp_path):
    (tmp_path / "readme.md").write_text("hello")
    with pytest.raises(CheckpointError, match=r"expected model\.safetensors.*found readme\.md"):
        read_pretrained(tmp_path)


def test_a_folder_of_runs_is_answered_with_one_of_them(tmp_path):
    (tmp_path / "version_0/checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"folder of runs; give one of them, such as '.*version_0'"):
        read_pretrained(tmp_path)


def test_a_url_is_refused():
    with pytest.raises(CheckpointError, match="is a URL"):
        read_pretrained("https://example.org/model.safetensors")


def test_openai_folders_say_how_to_convert(tmp_path):
    hparams = {"n_vocab": 50257, "n_ctx": 1024, "n_embd": 1024, "n_head": 16, "n_layer": 24}
    (tmp_path / "hparams.json").write_text(json.dumps(hparams))
    for name in ("checkpoint", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        (tmp_path / name).write_bytes(b"\0")
    with pytest.raises(CheckpointError, match=r"TensorFlow.*gpt2-medium.*convert_gpt2_original"):
        read_pretrained(tmp_path)
