"""import, export, evaluate and fine-tuning, as a user meets them; the whole tour with a tiny model."""

import json
import math
from pathlib import Path

import pytest
import torch
from one_line import error

import llm
from llm.__main__ import main
from llm.cli.main import main as train
from llm.config import GPTConfig
from llm.model import GPT
from llm.pretrained import Pretrained, export, read_pretrained
from llm.pretrained.checkpoint import read_checkpoint
from llm.tokenizers import BPETokenizer, CharTokenizer

transformers = pytest.importorskip("transformers")

REPOSITORY = Path(__file__).parents[2]
FINETUNE = REPOSITORY / "configs" / "gpt2" / "finetune.yaml"
QUICK = [
    "--trainer.max_steps=3",
    "--trainer.accumulate_grad_batches=1",
    "--trainer.limit_val_batches=2",
    "--trainer.accelerator=cpu",
    "--data.stride=null",
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def hugging_face():
    """A tiny random GPT-2 with GPT-2's vocabulary, in the folder `hf`."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_positions=32, n_embd=8, n_layer=2, n_head=2)
    model = transformers.GPT2LMHeadModel(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained("hf")
    return model


@pytest.fixture
def text():
    Path("my.txt").write_text("It was a bright cold day in April; the cat sat on the mat.\n" * 40)
    return "my.txt"


def fit(*words):
    return train(["fit", "--config", str(FINETUNE), *QUICK, *words])


@pytest.fixture
def qwen():
    """A tiny random Qwen3 in bfloat16 with GPT-2's vocabulary and a sliding window, in the folder `qwen`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"num_key_value_heads": 1, "head_dim": 6, "vocab_size": 50257, "max_position_embeddings": 64}
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    config = transformers.Qwen3Config(**sizes, **window, tie_word_embeddings=True)
    transformers.Qwen3ForCausalLM(config).bfloat16().save_pretrained("qwen")


def test_the_tour_with_a_modern_decoder(qwen, text, capsys):
    assert main(["generate", "--ckpt", "qwen", "--prompt", "It was", "--max_new_tokens", "12"]) == 0
    assert capsys.readouterr().out.startswith("It was")
    assert main(["attention", "--ckpt", "qwen", "--text", "the cat sat on the mat", "--out", "page.html"]) == 0
    assert Path("page.html").stat().st_size > 10_000

    words = ["--model.pretrained", "qwen", "--data.corpus", text, "--data.context_length", "32"]
    assert fit(*words) == 0
    assert fit(*words, "--ckpt_path", "last", "--trainer.max_steps", "5") == 0
    capsys.readouterr()
    assert "qk_gain" in error(capsys, train, "fit", "--config", str(FINETUNE), *words, "--model.gpt.qk_gain=shared")

    assert main(["export", "--ckpt", last_checkpoint(), "--out", "mine"]) == 0
    theirs, (ours, _) = transformers.AutoModelForCausalLM.from_pretrained("mine").eval(), llm.load(last_checkpoint())
    assert isinstance(theirs, transformers.Qwen3ForCausalLM)
    ids = torch.randint(50257, (1, 30))
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids), atol=1e-4, rtol=0)


def test_what_a_folder_is_comes_before_what_it_holds(qwen, capsys):
    settings = json.loads(Path("qwen/config.json").read_text())
    Path("qwen/config.json").write_text(
        json.dumps(settings | {"model_type": "mamba", "architectures": ["MambaForCausalLM"]})
    )
    for command in (
        ["generate", "--prompt", "a", "--ckpt"],
        ["export", "--out", "x", "--ckpt"],
        ["import", "--out", "x", "--from"],
    ):
        assert error(capsys, main, *command, "qwen").startswith("error: 'qwen' is a Mamba (model_type 'mamba'), which")
    assert "'qwen' is a Mamba" in error(capsys, train, "fit", "--model.pretrained", "qwen")


def last_checkpoint():
    return str(max(Path("runs").rglob("last.ckpt"), key=lambda path: path.stat().st_mtime))


def test_the_whole_tour(hugging_face, text, capsys):
    assert main(["import", "--from", "hf", "--out", "gpt2.ckpt"]) == 0
    assert "2 layers, 2 heads, C = 8" in capsys.readouterr().out
    assert main(["generate", "--ckpt", "hf", "--prompt", "It was", "--max_new_tokens", "5"]) == 0
    assert capsys.readouterr().out.startswith("It was")

    assert main(["evaluate", "--ckpt", "gpt2.ckpt", "--data.corpus", text, "--json"]) == 0
    before = json.loads(capsys.readouterr().out)
    options = ("--model.optim.learning_rate=0.05", "--model.optim.warmup_steps=0", "--data.context_length=16")
    assert fit(f"--data.corpus={text}", "--model.pretrained=gpt2.ckpt", *options) == 0
    assert main(["evaluate", "--ckpt", last_checkpoint(), "--data.corpus", text, "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["perplexity"] < before["perplexity"]

    assert main(["export", "--ckpt", last_checkpoint(), "--out", "mine"]) == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained("mine").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained("mine")
    ours = llm.load(last_checkpoint())
    prompt = "It was a bright"
    ids = tokenizer(prompt, return_tensors="pt")
    assert ids["input_ids"][0].tolist() == ours.tokenizer.encode(prompt)
    with torch.no_grad():
        torch.testing.assert_close(theirs(**ids).logits, ours.model(ids["input_ids"]), atol=1e-4, rtol=1e-4)
    expected = theirs.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=50256)[
        0, ids["input_ids"].shape[1] :
    ]
    found = llm.generate(ours.model, ids["input_ids"][0], llm.SamplingConfig(max_new_tokens=8, temperature=0), 50256)
    assert list(found) == [token for token in expected.tolist() if token != 50256]


# import


def test_an_imported_checkpoint_is_a_checkpoint(hugging_face, text, capsys):
    assert main(["import", "--from", "hf/model.safetensors", "--out", "deep/gpt2.ckpt"]) == 0
    model, tokenizer = llm.load("deep/gpt2.ckpt")
    assert tokenizer == BPETokenizer("gpt2")
    ids = torch.randint(50257, (2, 32))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hugging_face(ids).logits, atol=1e-4, rtol=1e-4)
    assert read_checkpoint("deep/gpt2.ckpt")["global_step"] == 0
    capsys.readouterr()
    for subcommand in ("validate", "test"):
        assert (
            train([subcommand, "--ckpt_path=deep/gpt2.ckpt", f"--data.corpus={text}", "--trainer.accelerator=cpu"]) == 0
        )
        assert "loss" in capsys.readouterr().out
    assert not list(Path("deep").glob(".*"))


def test_import_crops_and_pads(hugging_face, capsys):
    words = ["import", "--from", "hf", "--out", "a.ckpt", "--context_length", "10", "--vocab_multiple", "128"]
    assert main(words) == 0
    model, _ = llm.load("a.ckpt")
    assert (model.config.context_length, len(model.head.weight)) == (10, 50304)
    ids = torch.randint(50257, (2, 10))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hugging_face(ids).logits, atol=1e-4, rtol=1e-4)


def test_import_replaces_nothing_unasked(hugging_face, capsys):
    Path("a.ckpt").write_text("mine")
    assert "--overwrite" in error(capsys, main, "import", "--from", "hf", "--out", "a.ckpt")
    assert Path("a.ckpt").read_text() == "mine"
    assert main(["import", "--from", "hf", "--out", "a.ckpt", "--overwrite"]) == 0
    assert llm.load("a.ckpt").model.config.n_embd == 8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("import", "--from", "gone", "--out", "a.ckpt"), "no file or folder 'gone'"),
        (("import", "--from", "gpt2-xl", "--out", "a.ckpt"), "folder 'gpt2-xl' here"),
        (("import", "--from", "hf", "--out", "a.ckpt", "--context_length", "33"), "have 32 positions, 33 requested"),
        (("import", "--from", "hf", "--out", "hf/config.json/a.ckpt"), "can't write the checkpoint"),
        (("export", "--ckpt", "hf", "--out", "hf"), "is what is read"),
        (("export", "--ckpt", "hf", "--out", "."), "is there already"),
        (("export", "--ckpt", "gone", "--out", "out"), "no file or folder"),
        (("evaluate", "--ckpt", "hf", "--data.corpus", "gone.txt"), "no corpus 'gone.txt'"),
        (("evaluate", "--ckpt", "hf", "--data.corpus", "my.txt", "--stride", "33"), "from 1 to the context length, 32"),
        (("evaluate", "--ckpt", "hf", "--data.corpus", "my.txt", "--device", "warp"), "no device 'warp'"),
    ],
)
def test_bad_input_is_one_line(hugging_face, text, capsys, words, message):
    before = sorted(str(path) for path in Path().rglob("*") if path.parts[0] != "data")
    assert message in error(capsys, main, *words)
    assert sorted(str(path) for path in Path().rglob("*") if path.parts[0] != "data") == before


# export


def test_export_for_sharing_and_back(capsys):
    config = GPTConfig(vocab_size=4, context_length=8, n_layer=1, n_head=1, n_embd=4, attention="causal")
    export(Pretrained("llm", config, GPT(config).state_dict(), CharTokenizer("abcd")), "a.safetensors", "safetensors")
    assert main(["import", "--from", "a.safetensors", "--out", "a.ckpt"]) == 0
    assert main(["export", "--ckpt", "a.ckpt", "--out", "b.safetensors", "--format", "safetensors"]) == 0
    assert Path("a.safetensors").read_bytes() == Path("b.safetensors").read_bytes()
    assert "attention is causal" in error(capsys, main, "export", "--ckpt", "a.ckpt", "--out", "hf")
    assert not Path("hf").exists()


# evaluate


@pytest.mark.parametrize("source", ["hf", "gpt2.ckpt"])
def test_evaluate_is_the_same_for_every_source_and_batch_size(hugging_face, text, capsys, source):
    assert main(["import", "--from", "hf", "--out", "gpt2.ckpt"]) == 0
    found = []
    for batch_size in ("1", "5"):
        capsys.readouterr()
        words = [
            "evaluate",
            "--ckpt",
            source,
            "--data.corpus",
            text,
            "--stride",
            "7",
            "--batch_size",
            batch_size,
            "--json",
        ]
        assert main(words) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0]["perplexity"] == pytest.approx(found[1]["perplexity"], rel=1e-5)
    ids = BPETokenizer().encode(Path(text).read_text())
    assert found[0]["n_tokens"] == len(ids) - 1
    nats, seen = 0.0, 1
    for begin in range(0, len(ids), 7):  # a plain loop
        window = torch.tensor([ids[begin : begin + 32]])
        with torch.no_grad():
            log_probabilities = hugging_face(window).logits[0].log_softmax(-1)
        for token in range(max(seen, begin + 1), begin + window.shape[1]):
            nats -= float(log_probabilities[token - begin - 1, ids[token]])
            seen = token + 1
        if seen == len(ids):
            break
    assert found[0]["perplexity"] == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-4)


def test_evaluate_prints_a_table(hugging_face, text, capsys):
    assert main(["evaluate", "--ckpt", "hf", "--data.corpus", text]) == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names == ["n_tokens", "loss", "perplexity", "bits_per_byte", "bits_per_character"]


# --model.pretrained


def test_fine_tuning_begins_with_the_weights(hugging_face, text):
    options = ("--model.optim.learning_rate=1e-12", "--model.optim.weight_decay=0", "--data.context_length=10")
    assert fit(f"--data.corpus={text}", "--model.pretrained=hf", *options) == 0
    found = read_checkpoint(last_checkpoint())
    assert found["global_step"] == 3
    model, tokenizer = llm.load(last_checkpoint())
    assert model.config.context_length == 10
    assert tokenizer == BPETokenizer("gpt2")
    ids = torch.randint(50257, (2, 10))
    with torch.no_grad():
        torch.testing.assert_close(model(ids), hugging_face(ids).logits, atol=1e-4, rtol=1e-4)


def test_fine_tuning_takes_the_context_of_the_weights(hugging_face, text):
    words = ["fit", f"--data.corpus={text}", "--model.pretrained=hf", *QUICK, "--model.gpt.vocab_multiple=64"]
    assert train([*words, "--trainer.val_check_interval=3"]) == 0
    config = llm.load(last_checkpoint()).model.config
    assert (config.context_length, config.n_embd, config.padded_vocab_size) == (32, 8, 50304)


def test_a_fine_tuned_run_goes_on(hugging_face, text):
    options = (f"--data.corpus={text}", "--model.pretrained=hf", "--data.context_length=16")
    assert fit(*options) == 0
    assert fit(*options, "--trainer.max_steps=5", "--ckpt_path=last") == 0
    assert read_checkpoint(last_checkpoint())["global_step"] == 5


def test_validation_of_pretrained_weights(hugging_face, text, capsys):
    assert train(["validate", "--model.pretrained=hf", f"--data.corpus={text}", "--trainer.accelerator=cpu"]) == 0
    assert "validation/perplexity" in capsys.readouterr().out


def test_weights_without_a_tokenizer_take_that_of_the_run(text):
    characters = sorted(set(Path(text).read_text()))
    config = GPTConfig(vocab_size=len(characters), context_length=16, n_layer=1, n_head=2, n_embd=8)
    export(Pretrained("llm", config, GPT(config).state_dict()), "hf")
    options = ("--data.tokenizer.kind=char", "--data.tokenizer.specials=[]", "--data.context_length=16")
    assert fit(f"--data.corpus={text}", "--model.pretrained=hf", *options) == 0
    assert llm.load(last_checkpoint()).tokenizer == CharTokenizer(characters)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "can't download openai-community/gpt2"),
        (["--model.pretrained=gone"], "no file or folder 'gone'"),
        (["--model.pretrained=hf", "--data.context_length=64"], "have 32 positions, 64 requested"),
        (["--model.pretrained=hf", "--data.context_length=8", "--model.gpt.n_layer=3"], "n_layer (2 in the weights, 3"),
        (["--model.pretrained=hf", "--data.tokenizer.kind=char"], "kind is 'gpt2' in the checkpoint, 'char'"),
        (["--ckpt_path=gpt2.ckpt", "--data.context_length=32"], "start one from these weights by --model.pretrained"),
    ],
)
def test_bad_fine_tuning_is_one_line(hugging_face, text, capsys, words, message):
    assert main(["import", "--from", "hf", "--out", "gpt2.ckpt"]) == 0
    assert message in error(capsys, lambda given: fit(*given), f"--data.corpus={text}", *words)


def test_a_state_dict_of_the_book_starts_a_run(text):
    """It does not say how many heads there are; --model.gpt.n_head does."""
    n, C = 50257, 8
    state = {
        "tok_emb.weight": torch.randn(n, C),
        "pos_emb.weight": torch.randn(16, C),
        "out_head.weight": torch.randn(n, C),
    }
    at = "trf_blocks.0"
    for name, shape in (
        ("att.W_query", (C, C)),
        ("att.W_key", (C, C)),
        ("att.W_value", (C, C)),
        ("att.out_proj", (C, C)),
        ("ff.layers.0", (4 * C, C)),
        ("ff.layers.2", (C, 4 * C)),
    ):
        state[f"{at}.{name}.weight"] = torch.randn(shape) * 0.1
        if "W_" not in name:
            state[f"{at}.{name}.bias"] = torch.zeros(shape[0])
    for name in (f"{at}.norm1", f"{at}.norm2", "final_norm"):
        state[f"{name}.scale"], state[f"{name}.shift"] = torch.ones(C), torch.zeros(C)
    torch.save(state, "model.pth")
    words = (f"--data.corpus={text}", "--model.pretrained=model.pth", "--data.context_length=16")
    assert fit(*words) != 0
    assert fit(*words, "--model.gpt.n_head=4") == 0
    config = read_pretrained(last_checkpoint()).config
    assert (config.n_head, config.qkv_bias, config.tie_head) == (4, False, False)


@pytest.mark.parametrize("command", ["attention", "export", "import"])
def test_what_is_read_is_never_replaced(command, tmp_path, capsys):
    path = tmp_path / "mine.ckpt"
    path.write_bytes(b"mine")
    words = {
        "attention": ["--ckpt", str(path), "--text", "a"],
        "export": ["--ckpt", str(path), "--overwrite"],
        "import": ["--from", str(path), "--overwrite"],
    }[command]
    assert main([command, *words, "--out", str(path)]) == 1
    assert "is what is read" in capsys.readouterr().err
    assert path.read_bytes() == b"mine"
