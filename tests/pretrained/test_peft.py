"""PEFT's folders, written and read: the logits are those of `peft`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import EVERYWHERE, adapted, write
from torch import nn

import llm
from llm.__main__ import main
from llm.config import GPTConfig, LoRAConfig, RNNConfig
from llm.model.trained import Trained, trained_network
from llm.pretrained import import_adapters
from llm.pretrained.checkpoint import ENTRY, checkpoint_of, read_checkpoint, write_checkpoint
from llm.pretrained.formats import read_with_base
from llm.pretrained.peft import to_peft
from llm.pretrained.twin import hugging_face_twin

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

SIZES: dict[str, Any] = {"context_length": 8, "n_layer": 2, "n_head": 4, "n_embd": 16, "dropout": 0.0}
GPT2 = GPTConfig(vocab_size=50257, **SIZES)
LLAMA = GPTConfig(
    vocab_size=50257,
    n_kv_head=2,
    positions="rotary",
    norm="rms_norm",
    mlp="gated",
    activation="silu",
    bias=False,
    qkv_bias=False,
    tie_head=False,
    **SIZES,
)
NEOX = GPTConfig(vocab_size=50257, positions="rotary", parallel_residual=True, partial_rotary_factor=0.5, **SIZES)
CONFIGS = {"GPT-2": GPT2, "Llama": LLAMA, "GPT-NeoX": NEOX}
IDS = torch.arange(8)[None]


def logits_of(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found = model(IDS)
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.fixture(params=CONFIGS)
def config(request: pytest.FixtureRequest) -> GPTConfig:
    return CONFIGS[request.param]


def base(config: GPTConfig) -> Any:
    """What is beneath the adapters of `adapted`."""
    torch.manual_seed(0)
    return trained_network(config, Trained()).eval()


def base_folder(config: GPTConfig, folder: Path) -> Path:
    """The base alone, as a folder of `transformers`."""
    path = write(base(config), Trained(), folder / "base.ckpt")
    assert main(["export", "--ckpt", str(path), "--out", str(folder / "base")]) == 0
    return folder / "base"


@pytest.mark.parametrize(
    "lora",
    [EVERYWHERE, LoRAConfig(rank=2, alpha=3.5, modules=("blocks.1.attention.qkv", "projection"))],
    ids=["everywhere", "some"],
)
def test_what_is_written_gives_our_logits_in_peft(config: GPTConfig, lora: LoRAConfig, tmp_path: Path) -> None:
    network = adapted(Trained(lora=lora), config, seed=1)
    path = write(network, Trained(lora=lora), tmp_path / "x.ckpt")
    assert main(["export", "--ckpt", str(path), "--format", "peft", "--out", str(tmp_path / "out")]) == 0
    twin = hugging_face_twin(base(config))
    theirs = peft.PeftModel.from_pretrained(twin, str(tmp_path / "out")).eval()
    expected = logits_of(network)
    torch.testing.assert_close(logits_of(theirs), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(logits_of(base(config)), expected, atol=1e-2)


def test_several_adapters_on_one_base_are_switched_between(tmp_path: Path) -> None:
    networks = {}
    for seed, lora in ((1, EVERYWHERE), (2, LoRAConfig(rank=2, modules=("qkv",)))):
        networks[f"number{seed}"] = network = adapted(Trained(lora=lora), GPT2, seed=seed)
        path = write(network, Trained(lora=lora), tmp_path / f"number{seed}.ckpt")
        assert main(["export", "--ckpt", str(path), "--format", "peft", "--out", str(tmp_path / f"number{seed}")]) == 0
    twin = hugging_face_twin(base(GPT2))
    theirs = peft.PeftModel.from_pretrained(twin, str(tmp_path / "number1"), adapter_name="number1").eval()
    theirs.load_adapter(str(tmp_path / "number2"), adapter_name="number2")
    for name in ("number1", "number2", "number1"):
        theirs.set_adapter(name)
        torch.testing.assert_close(logits_of(theirs), logits_of(networks[name]), rtol=0, atol=1e-5)
    with theirs.disable_adapter():
        torch.testing.assert_close(logits_of(theirs), logits_of(base(GPT2)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 3, "lora_alpha": 12},
        {"r": 4, "use_rslora": True},
        {"r": 2, "rank_pattern": {"@mlp": 5}, "alpha_pattern": {"@mlp": 7}},
    ],
    ids=["plain", "rank-stabilized", "patterns"],
)
def test_what_peft_has_trained_gives_its_logits_here(
    config: GPTConfig, settings: dict[str, Any], tmp_path: Path
) -> None:
    beneath = base_folder(config, tmp_path)
    twin = hugging_face_twin(llm.load(beneath).model)  # type: ignore[arg-type]
    mlp, *others = {
        "GPT-2": ["c_fc", "c_attn", "attn.c_proj"],
        "Llama": ["up_proj", "q_proj", "v_proj", "o_proj"],
        "GPT-NeoX": ["dense_h_to_4h", "query_key_value", "attention.dense"],
    }[next(name for name, known in CONFIGS.items() if known is config)]
    targets = [mlp, *others]
    settings = json.loads(json.dumps(settings).replace("@mlp", mlp))
    theirs = peft.get_peft_model(twin, peft.LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **settings))
    torch.manual_seed(3)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.2)
    theirs.eval().save_pretrained(str(tmp_path / "theirs"))
    out = tmp_path / "x.ckpt"
    words = ["--from", str(tmp_path / "theirs"), "--base", str(beneath), "--out", str(out)]
    assert main(["import", *words]) == 0
    expected = logits_of(theirs)
    torch.testing.assert_close(logits_of(llm.load(out).model), expected, rtol=0, atol=1e-5)
    assert not torch.allclose(logits_of(llm.load(beneath).model), expected, atol=1e-2)
    assert any(name.endswith("lora_a") for name in read_with_base(out)["state_dict"])  # still adapters
    # and back again
    assert main(["export", "--ckpt", str(out), "--format", "peft", "--out", str(tmp_path / "again")]) == 0
    again = peft.PeftModel.from_pretrained(hugging_face_twin(llm.load(beneath).model), str(tmp_path / "again"))  # type: ignore[arg-type]
    torch.testing.assert_close(logits_of(again.eval()), expected, rtol=0, atol=1e-5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of adapters, and its base beside it."""
    trained = Trained(lora=EVERYWHERE)
    path = write(adapted(trained, GPT2), trained, tmp_path / "x.ckpt")
    assert main(["export", "--ckpt", str(path), "--format", "peft", "--out", str(tmp_path / "adapters")]) == 0
    base_folder(GPT2, tmp_path)
    return tmp_path / "adapters"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "kind 'IA3'; LORA can be read"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is all"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is"),
        ({"lora_alpha": None}, "an alpha is 'None'"),
        ({"lora_alpha": 0}, "an alpha is '0'"),
        ({"alpha_pattern": 3}, "an alpha is '3'"),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern that is no regular expression"),
    ],
)
def test_what_has_no_place_here_is_named(
    folder: Path, settings: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))
    words = ["--from", str(folder), "--base", str(folder.parent / "base"), "--out", str(folder.parent / "y.ckpt")]
    assert main(["import", *words]) == 1
    assert message in capsys.readouterr().err


def test_an_option_that_the_source_has_no_use_for_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, out = str(folder.parent / "base"), ["--out", str(folder.parent / "y.ckpt")]
    assert main(["import", "--from", base, "--base", base, *out]) == 1
    assert f"--base is for adapters that peft wrote, and {base!r} is no folder" in capsys.readouterr().err
    words = ["--from", str(folder), "--base", base, *out, "--context_length", "4", "--tokenizer", "gpt2"]
    assert main(["import", *words]) == 1
    assert "--tokenizer, --context_length can't be given with adapters" in capsys.readouterr().err


def test_a_base_that_is_missing_or_another_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["--out", str(folder.parent / "y.ckpt")]
    assert main(["import", "--from", str(folder), *out]) == 1
    assert "--base" in capsys.readouterr().err
    other = GPTConfig(**{**SIZES, "vocab_size": 50257, "n_embd": 32})
    path = write(base(other), Trained(), folder.parent / "other.ckpt")
    assert main(["import", "--from", str(folder), "--base", str(path), *out]) == 1
    assert "belongs to another base" in capsys.readouterr().err
    assert main(["generate", "--ckpt", str(folder), "--prompt", "a"]) == 1
    assert "import" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        (Trained(), "no adapters"),
        (Trained(["lora", "final_norm"], EVERYWHERE), "final_norm.bias, final_norm.weight is"),
    ],
    ids=["no adapters", "more is trained"],
)
def test_what_peft_has_no_place_for_is_refused(
    trained: Trained, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(adapted(trained, GPT2), trained, tmp_path / "x.ckpt")
    assert main(["export", "--ckpt", str(path), "--format", "peft", "--out", str(tmp_path / "out")]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_adapters_are_replaced_by_adapters(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--ckpt", str(folder.parent / "x.ckpt"), "--format", "peft", "--out"]
    assert main(["export", *words, str(folder)]) == 1
    (folder / "mine.txt").write_text("mine")
    assert main(["export", *words, str(folder), "--overwrite"]) == 0
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "mine.txt",
    ]
    assert main(["export", *words, str(folder.parent / "base"), "--overwrite"]) == 1
    assert "no adapters" in capsys.readouterr().err


def test_adapters_of_a_network_that_is_no_language_model_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, trained = RNNConfig(vocab_size=9, source_vocab_size=9), Trained(lora=LoRAConfig(rank=2, modules=("query",)))
    checkpoint = checkpoint_of(config, trained_network(config, trained).state_dict(), None)  # type: ignore[arg-type]
    checkpoint[ENTRY] |= {"task": "translate", "trained": trained.to_dict()}
    write_checkpoint(checkpoint, tmp_path / "x.ckpt")
    words = ["--ckpt", str(tmp_path / "x.ckpt"), "--format", "peft", "--out", str(tmp_path / "out")]
    assert main(["export", *words]) == 1
    assert "of the task 'translate'" in capsys.readouterr().err


def test_the_type_of_the_base_says_what_modules_are_called() -> None:
    """What holds a GPT-2 with ReLU may be an OPT."""
    trained = Trained(lora=LoRAConfig(rank=2, modules=("qkv",)))
    config = GPTConfig(vocab_size=50257, activation="relu", **SIZES)
    weights = adapted(trained, config).state_dict()
    names = {None: "transformer.h.0.attn.c_attn", "opt": "model.decoder.layers.0.self_attn.q_proj"}
    for model_type, expected in names.items():
        settings, tensors = to_peft(config, trained, weights, None, model_type)
        assert expected in settings["target_modules"]
        assert f"base_model.model.{expected}.lora_A.weight" in tensors


def test_imported_adapters_keep_the_chat_template_and_the_family_of_their_base(folder: Path) -> None:
    checkpoint = read_checkpoint(folder.parent / "base.ckpt")
    checkpoint[ENTRY] |= {"template": {"source": "{{ messages }}", "special_tokens": []}, "model_type": "gpt2"}
    write_checkpoint(checkpoint, folder.parent / "chat.ckpt")
    found = import_adapters(folder, str(folder.parent / "chat.ckpt"))[ENTRY]
    assert found["template"] == checkpoint[ENTRY]["template"]
    assert found["model_type"] == "gpt2"
