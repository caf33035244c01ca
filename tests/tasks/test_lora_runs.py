"""Runs that train adapters: their checkpoints, with and without the base, resumed and merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import WORDS, start, wait_for_checkpoint
from tiny_runs import Kill, fit
from torch import Tensor

import llm
from bench._processes import REPOSITORY
from llm.__main__ import main as commands
from llm.cli.main import main
from llm.config import LoRAConfig
from llm.errors import CheckpointError, ConfigError
from llm.pretrained import read_pretrained
from llm.pretrained.checkpoint import ENTRY, write_checkpoint
from llm.pretrained.formats import read_with_base
from llm.pretrained.vectors import read_vectors
from llm.tasks import LanguageModel

LORA = LoRAConfig(rank=2, alpha=8, modules=("qkv", "expand"))
ALONE = LoRAConfig(rank=2, alpha=8, modules=("qkv", "expand"), adapter_only=True)
HALF = LoRAConfig(rank=2, alpha=8, base_precision="bfloat16", adapter_only=True)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model without adapters."""
    folder = tmp_path_factory.mktemp("base")
    fit(folder)
    return folder / "checkpoints" / "last.ckpt"


def tune(folder: Path, base: Path, *callbacks: Any, **options: Any) -> dict[str, Tensor]:
    folder.mkdir(exist_ok=True)
    module = {"pretrained": str(base), "lora": LORA, **options.pop("module", {})}
    return fit(folder, *callbacks, module=module, optim={"learning_rate": 0.02}, **options)[0]


def last(folder: Path) -> Path:
    return folder / "checkpoints" / "last.ckpt"


def on_disk(path: Path) -> dict[str, Tensor]:
    """The tensors that a file really holds."""
    return torch.load(path, weights_only=True)["state_dict"]


def test_the_base_stays_as_it_is_and_the_adapters_learn(base: Path, tmp_path: Path) -> None:
    before, after = on_disk(base), tune(tmp_path, base)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    added = {name: tensor for name, tensor in after.items() if name not in before}
    assert len(added) == 4
    assert all(tensor.any() for tensor in added.values())


@pytest.mark.parametrize("lora", [LORA, ALONE, HALF], ids=["whole", "adapter only", "base in bfloat16"])
@pytest.mark.parametrize("accumulated", [1, 2])
def test_a_resumed_run_ends_with_the_same_bits(base: Path, tmp_path: Path, lora: LoRAConfig, accumulated: int) -> None:
    options = {"accumulate_grad_batches": accumulated, "max_steps": 6}
    whole = tune(tmp_path / "whole", base, module={"lora": lora}, **options)
    with pytest.raises(RuntimeError, match="killed"):
        tune(tmp_path / "cut", base, Kill(5 * accumulated), module={"lora": lora}, **options)
    resumed = tune(
        tmp_path / "cut", base, module={"lora": lora, "pretrained": None}, ckpt=last(tmp_path / "cut"), **options
    )
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
    final = (on_disk(last(tmp_path / name)) for name in ("whole", "cut"))
    for (name, one), (_, other) in zip(*(tensors.items() for tensors in final), strict=True):
        assert torch.equal(one, other), name


def test_an_adapter_only_checkpoint_holds_what_is_trained_and_no_more(base: Path, tmp_path: Path) -> None:
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    tune(whole, base)
    tune(alone, base, module={"lora": ALONE})
    assert len(on_disk(last(alone))) == 4
    assert all(".lora_" in name for name in on_disk(last(alone)))
    one, other = (llm.load(last(folder)).model.state_dict() for folder in (whole, alone))
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
    assert torch.equal(read_vectors(last(alone)).table, read_vectors(base).table)


def test_a_trained_head_is_saved_with_the_adapters(base: Path, tmp_path: Path) -> None:
    after = tune(tmp_path, base, module={"lora": ALONE, "train": ["lora", "head"]})
    kept = on_disk(last(tmp_path))
    for name in ("network.head.weight", "network.embeddings.token.weight"):  # the same tensor
        assert torch.equal(kept[name], after[name])
        assert not torch.equal(kept[name], on_disk(base)[name])
    assert torch.equal(llm.load(last(tmp_path)).model.head.weight, after["network.head.weight"])


class WithNewHead(LanguageModel):
    """A task whose head no pre-training knows."""

    new_parts = ("head.*",)


def test_a_new_head_is_saved_whatever_is_said(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tiny_runs.LanguageModel", WithNewHead)
    after = tune(tmp_path, base, module={"lora": ALONE})
    assert torch.equal(on_disk(last(tmp_path))["network.head.weight"], after["network.head.weight"])


def test_merged_weights_give_the_logits_of_the_adapted_network(base: Path, tmp_path: Path) -> None:
    tune(tmp_path, base)
    module = LanguageModel.load_from_checkpoint(last(tmp_path)).eval()
    plain = llm.load(last(tmp_path)).model
    ids = torch.arange(8)[None]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids), module(ids), rtol=0, atol=1e-5)
        assert not torch.allclose(plain(ids), llm.load(base).model(ids), atol=1e-3)
    assert plain.state_dict().keys() == llm.load(base).model.state_dict().keys()


def test_a_run_may_begin_with_adapted_weights(base: Path, tmp_path: Path) -> None:
    tune(tmp_path / "first", base, module={"lora": ALONE})
    again = tune(tmp_path / "second", last(tmp_path / "first"))
    merged = read_pretrained(last(tmp_path / "first")).weights
    name = "blocks.0.attention.qkv.weight"
    assert torch.equal(again[f"network.{name}"], merged[name])


def test_a_base_in_half_precision_is_found_again(base: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.ckpt"
    checkpoint = torch.load(base, weights_only=True)
    checkpoint["state_dict"] = {name: tensor.bfloat16() for name, tensor in checkpoint["state_dict"].items()}
    write_checkpoint(checkpoint, half)
    after = tune(tmp_path / "run", half, module={"lora": ALONE}, precision="bf16-true", max_steps=3)
    kept = read_with_base(last(tmp_path / "run"))["state_dict"]
    assert kept.keys() == after.keys()
    assert all(torch.equal(kept[name], tensor) for name, tensor in after.items())
    tune(tmp_path / "float32", half, module={"lora": ALONE}, max_steps=3)
    assert llm.load(last(tmp_path / "float32")).model.head.weight.dtype == torch.float32


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    write_checkpoint(checkpoint, path)


def test_the_base_of_an_adapter_is_found_missed_and_told_from_others(base: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.ckpt"
    shutil.copy(base, moved)
    tune(tmp_path / "run", moved, module={"lora": ALONE})
    path = last(tmp_path / "run")
    expected = llm.load(path).model.state_dict()

    moved.rename(tmp_path / "away.ckpt")
    with pytest.raises(CheckpointError, match=r"holds adapters alone.*moved\.ckpt.*beside it as 'moved\.ckpt'"):
        llm.load(path)
    shutil.copy(base, path.with_name("moved.ckpt"))
    assert all(torch.equal(llm.load(path).model.state_dict()[name], tensor) for name, tensor in expected.items())

    def other(checkpoint: dict[str, Any]) -> None:
        checkpoint["state_dict"]["network.final_norm.bias"][0] += 1e-3

    changed(path.with_name("moved.ckpt"), other)
    with pytest.raises(CheckpointError, match="adapters to other weights than those in"):
        llm.load(path)
    itself = {"source": str(path), "fingerprint": "", "dtypes": {}}
    for damage in ({"source": 3, "fingerprint": ""}, "nothing", itself):
        changed(path, lambda checkpoint, damage=damage: checkpoint[ENTRY].update(base=damage))  # type: ignore[misc]
        with pytest.raises(CheckpointError):
            read_with_base(path)


def test_adapters_alone_need_a_base_in_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.pretrained"):
        fit(tmp_path, module={"lora": ALONE})


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ({"lora": LoRAConfig(rank=3, alpha=8)}, r"other adapters: rank \(2 in the checkpoint, 3 now\)"),
        ({"train": ["lora", "head"]}, "lora is trained, in this run lora, head"),
        ({"lora": LoRAConfig()}, r"other adapters: rank \(2 in the checkpoint, 0 now\)"),
    ],
)
def test_other_adapters_are_refused(base: Path, tmp_path: Path, module: dict[str, Any], message: str) -> None:
    tune(tmp_path, base)
    with pytest.raises(CheckpointError, match=message):
        tune(tmp_path, base, module=module, ckpt=last(tmp_path))


def test_a_run_without_adapters_does_not_resume_with_them(base: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no adapters.*--model\.pretrained"):
        tune(tmp_path, base, ckpt=base)


def test_what_a_checkpoint_says_of_its_adapters_is_checked(base: Path, tmp_path: Path) -> None:
    tune(tmp_path, base)
    for damage in ({}, {"train": None}, {"train": ["lora"], "lora": {"rank": "x"}, "new": []}, 3):
        changed(last(tmp_path), lambda checkpoint, damage=damage: checkpoint[ENTRY].update(trained=damage))  # type: ignore[misc]
        with pytest.raises(CheckpointError, match="what it says of its adapters"):
            llm.load(last(tmp_path))


def run(*words: str) -> None:
    """One command of `train.py`, in this process."""
    assert main(["fit", *WORDS[1:], *words], REPOSITORY / "configs" / "default.yaml") == 0


def test_a_killed_run_of_adapters_resumes_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run("--trainer.max_steps=3", "--checkpoint.folder=base")
    words = ["--model.pretrained=base/last.ckpt", "--model.lora.rank=2", "--model.lora.adapter_only=true"]
    words += ["--trainer.max_steps=60"]
    process = start(tmp_path, *words, "--checkpoint.folder=killed", "--checkpoint.every=5")
    wait_for_checkpoint(tmp_path / "killed", process)
    process.kill()
    process.communicate(timeout=60)
    run(*words, "--checkpoint.folder=whole")
    run("--ckpt_path=killed/last.ckpt", "--trainer.max_steps=60", "--checkpoint.folder=killed")
    one, other = (on_disk(tmp_path / name / "last.ckpt") for name in ("whole", "killed"))
    assert one.keys() == other.keys()
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())


def test_labels_by_adapters_from_a_language_model_to_a_plain_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("--trainer.max_steps=3", "--checkpoint.folder=base")
    rows = "".join(
        f"the {a} and {b} {n},{a}\n" for n in "abcdefghijklmnopqrst" for a, b in (("sea", "tar"), ("tar", "sea"))
    )
    Path("labels.csv").write_text(f"text,label\n{rows}")
    words = ["fit", "--task=classify", "--data.corpus=labels.csv", "--model.pretrained=base/last.ckpt"]
    words += ["--model.lora.rank=2", "--model.lora.adapter_only=true", "--trainer.max_steps=4"]
    words += ["--checkpoint.folder=tuned", "--trainer.accelerator=cpu", "--inspect.every=0"]
    assert main(words) == 0
    assert "at random" not in capsys.readouterr().err, "what is frozen is the base"
    kept = on_disk(Path("tuned/last.ckpt"))
    assert {"network.head.weight", "network.head.bias"} <= kept.keys()  # without it, the labels would be chance
    assert all(".lora_" in name or name.startswith("network.head.") for name in kept)
    assert (
        main(["validate", "--ckpt_path=tuned/last.ckpt", "--data.corpus=labels.csv", "--trainer.accelerator=cpu"]) == 0
    )
    assert commands(["merge", "--ckpt", "tuned/last.ckpt", "--out", "plain.ckpt"]) == 0
    answers = []
    for name in ("tuned/last.ckpt", "plain.ckpt"):
        capsys.readouterr()
        assert commands(["classify", "--ckpt", name, "--text", "the tar and sea a", "--json"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]


def test_new_tokens_of_a_chat_template_are_trained_with_the_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("--trainer.max_steps=3", "--data.context_length=48", "--checkpoint.folder=base")
    records = [
        {"instruction": f"Say {word}.", "output": word} for word in ("sea", "tar", "gale", "quay", "mast", "sail")
    ]
    Path("errands.json").write_text(json.dumps(records))
    words = ["fit", "--task=instruct", "--data.corpus=errands.json", "--data.template=chatml", "--data.batch_size=2"]
    words += ["--data.context_length=48", "--trainer.accelerator=cpu", "--inspect.every=0"]
    words += ["--data.validation_fraction=0.2"]
    tune = [*words, "--model.pretrained=base/last.ckpt", "--model.lora.rank=2", "--model.lora.adapter_only=true"]
    assert main([*tune, "--trainer.max_steps=4", "--checkpoint.folder=whole"]) == 0, capsys.readouterr().err
    kept = on_disk(Path("whole/last.ckpt"))
    rows = kept["network.head.token_rows"]
    assert all(name.rpartition(".")[2] in ("lora_a", "lora_b", "token_rows") for name in kept)
    plain = llm.load("whole/last.ckpt").model
    n_old = llm.load("base/last.ckpt").model.config.vocab_size
    assert plain.config.vocab_size == n_old + len(rows)
    assert torch.equal(plain.head.weight[n_old : plain.config.vocab_size], rows)
    assert torch.equal(plain.head.weight[:n_old], llm.load("base/last.ckpt").model.head.weight[:n_old])
    assert (rows - rows.mean(0)).norm() > 0

    resumed = [*words, "--ckpt_path=whole/last.ckpt", "--trainer.max_steps=6", "--checkpoint.folder=whole"]
    shutil.copytree("whole", "before")
    assert main(resumed) == 0, capsys.readouterr().err
    after = on_disk(Path("whole/last.ckpt"))
    assert after.keys() == kept.keys()
    assert not torch.equal(after["network.head.token_rows"], rows)
    assert commands(["merge", "--ckpt", "before/last.ckpt", "--out", "plain.ckpt"]) == 0
    assert torch.equal(llm.load("plain.ckpt").model.head.weight, plain.head.weight)
    assert commands(["export", "--ckpt", "whole/last.ckpt", "--format", "peft", "--out", "adapters"]) == 1
    assert "token_rows is trained: merge them" in capsys.readouterr().err
