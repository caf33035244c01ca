"""From pre-training to an assistant that other programs open: each step by the command that a user gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import llm
from llm.__main__ import main
from llm.cli.main import main as train

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

RUN = [
    "--trainer.max_steps=3",
    "--trainer.limit_val_batches=1",
    "--trainer.accelerator=cpu",
    "--data.context_length=64",
    "--inspect.every=0",
    "--samples.every=0",
]
RECORDS = [
    {"instruction": "Say the word.", "input": word, "output": f"The word is {word}."}
    for word in ("sea", "tar", "rope", "salt", "gale", "quay", "beam", "brass", "mast", "oar", "sail", "net")
]


def test_pretrain_lora_merge_chat_export_and_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("my.txt").write_text("It was a bright cold day in April; the cat sat on the mat.\n" * 40)
    Path("errands.json").write_text(json.dumps(RECORDS))

    sizes = ["--model.gpt.n_layer=2", "--model.gpt.n_head=2", "--model.gpt.n_embd=8"]
    assert train(["fit", "--data.corpus=my.txt", *sizes, *RUN, "--checkpoint.folder=base"]) == 0
    tune = ["--task=instruct", "--model.pretrained=base/last.ckpt", "--data.corpus=errands.json"]
    tune += ["--data.template=alpaca", "--model.lora.rank=2", "--model.lora.adapter_only=true"]
    tune += ["--model.optim.learning_rate=0.1", "--model.optim.warmup_steps=0", "--checkpoint.folder=tuned"]
    assert train(["fit", *tune, *RUN[:-1]]) == 0, capsys.readouterr().err
    assert main(["merge", "--ckpt", "tuned/last.ckpt", "--out", "plain.ckpt"]) == 0

    answers = []
    for name in ("tuned/last.ckpt", "plain.ckpt"):
        capsys.readouterr()
        assert main(["chat", "--ckpt", name, "--prompt", "Say the word.", "--max_new_tokens", "3"]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1]

    assert main(["export", "--ckpt", "plain.ckpt", "--out", "plain"]) == 0
    assert main(["export", "--ckpt", "base/last.ckpt", "--out", "hf"]) == 0
    assert main(["export", "--ckpt", "tuned/last.ckpt", "--format", "peft", "--out", "adapters"]) == 0

    ids = torch.tensor([llm.load("plain.ckpt").tokenizer.encode("Say the word.")])
    ours = llm.load("plain.ckpt").model(ids)
    whole = transformers.AutoModelForCausalLM.from_pretrained("plain").eval()
    base = transformers.AutoModelForCausalLM.from_pretrained("hf").eval()
    before = base(ids).logits.detach()
    adapted = peft.PeftModel.from_pretrained(base, "adapters").eval()
    torch.testing.assert_close(whole(ids).logits, ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(adapted(ids).logits, ours, rtol=0, atol=1e-5)
    assert not torch.allclose(before, ours, atol=1e-4)
    assert transformers.AutoTokenizer.from_pretrained("plain").encode("Say the word.") == ids[0].tolist()
