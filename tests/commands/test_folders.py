"""Folders of weights that are damaged, of another family or tokenizer, each in one line; and what goes out again."""

import json
import math
from pathlib import Path

import pytest
import tokenizers
import torch
import yaml
from one_line import error
from safetensors.torch import load_file, save_file

import llm
from llm.__main__ import main
from llm.cli.main import main as train
from llm.config import GPTConfig
from llm.model import GPT
from llm.pretrained import Pretrained, export
from llm.pretrained.written_tokenizer import write_tokenizer
from llm.tokenizers import CharTokenizer

transformers = pytest.importorskip("transformers")

REPOSITORY = Path(__file__).parents[2]
QUICK = [
    "--trainer.max_steps=3",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
    "--data.stride=null",
    "--inspect.every=0",
    "--samples.every=0",
]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def text():
    Path("my.txt").write_text("It was a bright cold day in April; the cat sat on the mat.\n" * 40)
    return "my.txt"


def damage_missing_shard(folder):
    sorted(folder.glob("*.safetensors"))[1].unlink()


def damage_dtype(folder):
    path = sorted(folder.glob("*.safetensors"))[0]
    tensors = load_file(path)
    save_file({name: tensor.to(torch.int8) for name, tensor in tensors.items()}, path, {"format": "pt"})


def damage_index(folder):
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.norm.weight"] = "model-00009-of-00009.safetensors"
    path.write_text(json.dumps(index))


def damage_family(folder):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "qwen3"}))


def damage_tokenizer(folder):
    vocabulary = {letter: number for number, letter in enumerate("abcdefgh")}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def shards():
    """A tiny random Llama of seven tokens in several files with an index, in the folder `shards`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": None, "eos_token_id": None}
    config = transformers.LlamaConfig(**sizes, **ends, vocab_size=7, max_position_embeddings=16)
    transformers.LlamaForCausalLM(config).save_pretrained("shards", max_shard_size="8KB")
    assert len(list(Path("shards").glob("*.safetensors"))) > 2
    return Path("shards")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing_shard, "index.json' names the file 'model-00002-of-"),
        (damage_dtype, "of another shape or type: "),
        (damage_index, "names the file 'model-00009-of-00009.safetensors', which is missing"),
        (damage_family, "missing: layers.0.self_attn.q_norm.weight"),
    ],
)
def test_a_bad_folder_is_one_line_in_every_command(shards, text, capsys, damage, message):
    damage(shards)
    for command in (
        ["generate", "--prompt", "1 2", "--ckpt"],
        ["chat", "--prompt", "a", "--ckpt"],
        ["attention", "--text", "1 2", "--out", "x", "--ckpt"],
        ["export", "--out", "x", "--ckpt"],
        ["import", "--out", "x", "--from"],
        ["evaluate", "--data.corpus", text, "--ckpt"],
    ):
        said = error(capsys, main, *command, "shards")
        assert message in said
        assert "shards" in said
        assert not Path("x").exists()
    assert message in error(capsys, train, "fit", "--data.corpus", text, "--model.pretrained", "shards")


def damage_numbers(folder):
    for path in folder.glob("*.safetensors"):
        save_file({name: tensor * math.nan for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def test_weights_of_nan_are_said(shards, capsys):
    damage_numbers(shards)
    for command in (["generate", "--prompt", "1 2"], ["attention", "--text", "1 2", "--out", "x"]):
        assert "the model's logits are NaN or infinite" in error(capsys, main, *command, "--ckpt", "shards")
    assert not Path("x").exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_pointer_instead_of_a_file_is_said(shards, capsys, name):
    (shards / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n")
    said = error(capsys, main, "chat", "--ckpt", "shards", "--prompt", "a")
    assert f"'shards/{name}' is a pointer of Git LFS, not the file: run git lfs pull" in said


def test_a_tokenizer_that_does_not_fit_the_table_is_said(shards, text, capsys):
    damage_tokenizer(shards)
    fits = "the tokenizer in 'shards' can't be used (it has 8 tokens, the model 7)"
    assert fits in error(capsys, main, "generate", "--ckpt", "shards", "--prompt", "a")
    assert fits in error(capsys, main, "chat", "--ckpt", "shards", "--prompt", "a")
    said = error(capsys, train, "fit", "--data.corpus", text, "--model.pretrained", "shards")
    assert "vocab_size (7 in the weights, 50257 requested)" in said
    assert f"{fits}: imported without one; give theirs with --data.tokenizer.checkpoint" in said
    given = ["--from", "shards", "--out", "x.ckpt", "--tokenizer", "shards/tokenizer.json"]
    assert "has 8 tokens, and the model 7: it is another one's" in error(capsys, main, "import", *given)
    assert not Path("x.ckpt").exists()
    for words in (["import", "--from", "shards", "--out", "x.ckpt"], ["export", "--ckpt", "shards", "--out", "out"]):
        assert main(words) == 0
        assert f"note: {fits}" in capsys.readouterr().out


def test_a_folder_of_another_task_is_no_run_to_go_on_with(shards, text, capsys):
    said = error(capsys, train, "fit", "--task", "masked", "--data.corpus", text, "--model.pretrained", "shards")
    assert said.endswith("a run of 'masked' begins with those of masked")


def test_rows_that_a_given_tokenizer_leaves_unnamed_are_said(shards, text, capsys):
    """A token that the run adds would else be taken for one of theirs, and stay frozen with them."""
    Path("few.txt").write_text("abcd")
    words = ["--data.corpus", text, "--model.pretrained", "shards", "--data.tokenizer.checkpoint", "few.txt"]
    said = error(capsys, train, "fit", *words)
    assert "has 7 rows where 'few.txt' has 4 tokens" in said
    assert main(said.split("python -m llm ")[1].split(")")[0].split()) == 0
    config = llm.load("base.ckpt").model.config
    assert (config.vocab_size, config.padded_vocab_size) == (4, 7)


def test_a_trained_checkpoint_stays_of_the_family_that_it_began_with(text):
    """An OPT, which GPT-2 could hold, too; the run resumed, and its adapters merged."""
    characters = sorted(set(Path(text).read_text()))
    write_tokenizer(CharTokenizer(characters), Path(), 32)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "max_position_embeddings": 32, "vocab_size": len(characters)}
    opt = transformers.OPTForCausalLM(transformers.OPTConfig(**sizes, bos_token_id=0, eos_token_id=0, pad_token_id=0))
    opt.save_pretrained(".")
    words = ["fit", f"--data.corpus={text}", "--model.lora.rank=1", "--checkpoint.folder=run", *QUICK]
    assert train([*words, "--model.pretrained=.", "--model.lora.adapter_only=true"]) == 0
    assert train([*words, "--ckpt_path=run/last.ckpt", "--trainer.max_steps=4"]) == 0
    assert main(["merge", "--ckpt", "run/last.ckpt", "--out", "plain.ckpt"]) == 0
    assert main(["import", "--from", "plain.ckpt", "--out", "again.ckpt"]) == 0
    for name in ("run/last.ckpt", "plain.ckpt", "again.ckpt"):
        assert main(["export", "--ckpt", name, "--out", "out", "--overwrite"]) == 0
        theirs, ids = transformers.AutoModelForCausalLM.from_pretrained("out").eval(), torch.arange(10)[None]
        assert isinstance(theirs, transformers.OPTForCausalLM)
        torch.testing.assert_close(theirs(ids).logits, llm.load(name).model(ids), atol=1e-5, rtol=0)


def test_what_keeps_the_modern_configuration_from_other_programs_is_named(capsys):
    settings = yaml.safe_load((REPOSITORY / "configs" / "modern.yaml").read_text())["model"]["gpt"]
    sizes = {"vocab_size": 9, "context_length": 8, "n_embd": 16}

    def written(**settings):
        config = GPTConfig(**settings)
        export(Pretrained("llm", config, GPT(config).state_dict()), "x.safetensors", "safetensors", overwrite=True)
        return ["export", "--ckpt", "x.safetensors", "--out", "out"]

    said = error(capsys, main, *written(**settings | sizes))
    assert said in " ".join((REPOSITORY / "docs" / "weights.md").read_text().split())
    assert main(written(**settings | sizes | {"mlp": "gated", "qk_norm": False})) == 0, "there is nothing else"
    assert transformers.AutoConfig.from_pretrained("out").model_type == "llama"
