"""To an assistant that other programs open, from nothing or a SmolLM: each step by the command that a user gives."""

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


TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def smollm(folder: Path, text: str) -> None:
    """A tiny random Llama of the shape of SmolLM2-Instruct, and what lies beside it, in the files that it comes in."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=specials, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text], trainer)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.get_vocab_size() + 5, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
        num_attention_heads=3, num_key_value_heads=1, max_position_embeddings=96, tie_word_embeddings=True,
        rms_norm_eps=1e-5, rope_theta=100_000.0, bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "unk_token": "<|endoftext|>"}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": TEMPLATE, "add_prefix_space": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def test_chat_look_adapt_export_and_open_a_smollm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    text = "It was a bright cold day in April 1984; the cat sat on the mat.\n" * 30
    Path("my.txt").write_text(text)
    smollm(Path("smollm"), text)

    theirs = transformers.AutoTokenizer.from_pretrained("smollm")
    messages = [{"role": "user", "content": "Where is the cat?"}]
    prompt = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answered = transformers.AutoModelForCausalLM.from_pretrained("smollm", dtype=torch.float32).generate(
        **prompt, max_new_tokens=5, do_sample=False, pad_token_id=2
    )[0, prompt["input_ids"].shape[1] :]
    words = ["--prompt", "Where is the cat?", "--max_new_tokens", "5", "--temperature", "0"]
    assert main(["import", "--from", "smollm", "--out", "smollm.ckpt"]) == 0
    for name in ("smollm", "smollm.ckpt"):
        capsys.readouterr()
        assert main(["chat", "--ckpt", name, "--precision", "float32", *words]) == 0
        expected = theirs.decode([token for token in answered.tolist() if token != 2])
        assert capsys.readouterr().out.strip() == expected.strip()
    assert main(["attention", "--ckpt", "smollm", "--text", "the cat sat on the mat", "--out", "page.html"]) == 0
    assert Path("page.html").stat().st_size > 10_000

    tune = ["fit", "--model.pretrained=smollm", "--data.corpus=my.txt", *RUN, "--data.context_length=16"]
    tune += ["--model.lora.rank=2", "--model.lora.base_precision=bfloat16", "--model.optim.learning_rate=0.1"]
    assert train([*tune, "--model.optim.warmup_steps=0", "--checkpoint.folder=tuned"]) == 0, capsys.readouterr().err
    assert main(["export", "--ckpt", "tuned/last.ckpt", "--out", "mine"]) == 0

    ours = llm.load("tuned/last.ckpt")
    ids = theirs(text, return_tensors="pt")["input_ids"][:, :16]
    assert ids[0].tolist() == ours.tokenizer.encode(text)[:16]
    mine = transformers.AutoModelForCausalLM.from_pretrained("mine").eval()
    assert isinstance(mine, transformers.LlamaForCausalLM)
    torch.testing.assert_close(mine(ids).logits, ours.model(ids), rtol=0, atol=1e-5)
    before = llm.load("smollm").model.float()(ids)
    assert not torch.allclose(before, ours.model(ids), atol=1e-2)
    opened = transformers.AutoTokenizer.from_pretrained("mine")
    assert opened(text).input_ids == theirs(text).input_ids
    assert opened.apply_chat_template(messages, tokenize=False) == theirs.apply_chat_template(messages, tokenize=False)
    written = transformers.pipeline("text-generation", "mine")("It was", max_new_tokens=3, return_full_text=True)
    assert written[0]["generated_text"].startswith("It was")
