"""`python -m llm merge`, and the commands that take a checkpoint with adapters."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

import llm
from llm.__main__ import main
from llm.model import Network
from llm.model.trained import Trained
from llm.pretrained.checkpoint import ENTRY, read_checkpoint

sys.path.append(str(Path(__file__).parents[1] / "pretrained"))
from adapted import EVERYWHERE, adapted, base, write

IDS = torch.arange(8)[None]
HALF = dataclasses.replace(EVERYWHERE, base_precision="bfloat16")


def logits(network: Network) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(IDS)


@pytest.mark.parametrize("lora", [EVERYWHERE, HALF], ids=["float32", "base in bfloat16"])
def test_merged_equals_unmerged(tmp_path: Path, capsys: pytest.CaptureFixture[str], lora: llm.LoRAConfig) -> None:
    trained, out = Trained(["lora", "final_norm"], lora), tmp_path / "out.ckpt"
    network = adapted(trained)
    path = write(network, trained, tmp_path / "x.ckpt")
    assert main(["merge", "--ckpt", str(path), "--out", str(out)]) == 0
    assert "8 adapters of rank 3, alpha 12, merged" in capsys.readouterr().out
    torch.testing.assert_close(logits(llm.load(out).model), logits(network), rtol=0, atol=1e-5)
    whole = read_checkpoint(base(tmp_path / "base.ckpt"))
    found = read_checkpoint(out)
    assert found["state_dict"].keys() == whole["state_dict"].keys()
    assert found[ENTRY] == whole[ENTRY]


def test_bfloat16_says_what_it_costs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained, out = Trained(lora=EVERYWHERE), tmp_path / "out.ckpt"
    network = adapted(trained)
    path = write(network, trained, tmp_path / "x.ckpt")
    assert main(["merge", "--ckpt", str(path), "--out", str(out), "--precision", "bfloat16"]) == 0
    assert "changes at most 0.1" in capsys.readouterr().out
    assert out.stat().st_size < 0.6 * path.stat().st_size
    error = (logits(llm.load(out).model) - logits(network)).abs().max()
    assert 1e-5 < error < 0.1


def test_merging_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained, once, twice = Trained(lora=EVERYWHERE), tmp_path / "once.ckpt", tmp_path / "twice.ckpt"
    write(adapted(trained), trained, tmp_path / "x.ckpt")
    assert main(["merge", "--ckpt", str(tmp_path / "x.ckpt"), "--out", str(once)]) == 0
    assert main(["merge", "--ckpt", str(once), "--out", str(twice)]) == 1
    assert "has no adapters to merge" in capsys.readouterr().err
    assert not twice.exists()


def test_nothing_is_replaced_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = Trained(lora=EVERYWHERE)
    path = write(adapted(trained), trained, tmp_path / "x.ckpt")
    before = path.read_bytes()
    assert main(["merge", "--ckpt", str(path), "--out", str(path), "--overwrite"]) == 1
    assert "is what is read" in capsys.readouterr().err
    (tmp_path / "there.ckpt").write_bytes(b"mine")
    assert main(["merge", "--ckpt", str(path), "--out", str(tmp_path / "there.ckpt")]) == 1
    assert "is there already" in capsys.readouterr().err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--prompt", "It was", "--max_new_tokens", "2"],
        ["attention", "--text", "It was"],
        ["trace", "--text", "It was"],
        ["export", "--format", "safetensors"],
    ],
    ids=lambda words: words[0],
)
def test_a_checkpoint_with_adapters_is_taken(words: list[str], tmp_path: Path) -> None:
    trained = Trained(lora=EVERYWHERE)
    path = write(adapted(trained), trained, tmp_path / "x.ckpt")
    command, *rest = words
    out = ["--out", str(tmp_path / "out")] if command in ("attention", "export") else []
    assert main([command, "--ckpt", str(path), *out, *rest]) == 0
