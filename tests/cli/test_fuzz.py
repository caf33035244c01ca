"""Random settings and damaged files: a run works, or ends with an error of ours; nothing crashes, hangs or runs code.

    LLM_FUZZ_RUNS=1000 pytest tests/cli/test_fuzz.py

tries so many of each kind; without it, few enough for every day.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import os
import resource
import sys
import time
import zipfile
from pathlib import Path

import lightning as L
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import llm
from llm.__main__ import main as command
from llm.cli.main import main as train
from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule, TokenStore
from llm.data.tokens.tokenize import Plan, tokenize
from llm.errors import LLMError, TokenizerError
from llm.model import GPT
from llm.pretrained import Pretrained, export, read_pretrained
from llm.pretrained.checkpoint import checkpoint_of, read_checkpoint, write_checkpoint
from llm.tasks import LanguageModel
from llm.tokenizers import BytePairTokenizer, CharTokenizer, Tokenizer, WordTokenizer, tokenizer_from_dict
from llm.tokenizers.byte_pairs import PRINTABLE

RUNS = int(os.environ.get("LLM_FUZZ_RUNS", "0"))
SECONDS = 60
"""What takes longer hangs."""
TEXT = "the cat sat on the mat, and the dog sat by the door; " * 8


def tries(few: int, seldom: int = 1):
    """So many examples; in a long run, a share of those that were asked for."""
    return settings(
        max_examples=max(1, RUNS // seldom) if RUNS else few,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        derandomize=not RUNS,
    )


@contextlib.contextmanager
def bounded():
    """A crash shows where; what hangs is ended; memory that nobody has is refused, as on a small machine."""
    faulthandler.dump_traceback_later(SECONDS, exit=True, file=sys.__stderr__)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


# Damaged bytes


@st.composite
def damage(draw, content: bytes) -> bytes:
    """Some bytes, with a few of them changed, left out, doubled or put in, or cut short."""
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        kind = draw(st.sampled_from(["flip", "set", "insert", "delete", "double", "cut", "zero"]))
        length = draw(st.integers(1, 16))
        if kind == "flip":
            changed[at : at + 1] = bytes(byte ^ (1 << draw(st.integers(0, 7))) for byte in changed[at : at + 1])
        elif kind == "set":
            changed[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=length))
        elif kind == "delete":
            del changed[at : at + length]
        elif kind == "double":
            changed[at:at] = changed[at : at + length]
        elif kind == "cut":
            del changed[at:]
        else:
            changed[at : at + length] = bytes(len(changed[at : at + length]))
    return bytes(changed)


def some_gpt() -> GPTConfig:
    return GPTConfig(vocab_size=17, context_length=8, n_layer=1, n_head=2, n_embd=4)


@pytest.fixture(scope="module")
def checkpoint(folder):
    tokenizer = CharTokenizer("abcdefghijklmnop", ["<|endoftext|>"])
    torch.manual_seed(0)
    write_checkpoint(checkpoint_of(some_gpt(), GPT(some_gpt()).state_dict(), tokenizer), folder / "good.ckpt")
    return folder / "good.ckpt"


@tries(60)
@given(st.data())
def test_a_damaged_checkpoint(checkpoint, folder, data):
    path = folder / "bad.ckpt"
    path.write_bytes(data.draw(damage(checkpoint.read_bytes())))
    with bounded():
        for read in (read_checkpoint, llm.load):
            with contextlib.suppress(LLMError):
                read(path)


@tries(60)
@given(st.data())
def test_the_pickle_inside_a_checkpoint(checkpoint, folder, data):
    """The archive is whole, its checksums are right; what it says is damaged."""
    path = folder / "odd.ckpt"
    with zipfile.ZipFile(checkpoint) as whole, zipfile.ZipFile(path, "w") as odd:
        for part in whole.infolist():
            content = whole.read(part)
            odd.writestr(part, data.draw(damage(content)) if part.filename.endswith("data.pkl") else content)
    with bounded():
        for read in (read_checkpoint, llm.load, read_pretrained):
            with contextlib.suppress(LLMError):
                read(path)


@tries(60)
@given(st.data())
def test_a_damaged_safetensors_file(folder, data):
    whole = folder / "good.safetensors"
    if not whole.exists():
        tokenizer = CharTokenizer("abcdefghijklmnop", ["<|endoftext|>"])
        export(Pretrained("llm", some_gpt(), GPT(some_gpt()).state_dict(), tokenizer), whole, "safetensors")
    path = folder / "bad.safetensors"
    path.write_bytes(data.draw(damage(whole.read_bytes())))
    with bounded(), contextlib.suppress(LLMError):
        llm.load(path)


def stored(folder: Path) -> Path:
    """A token store of several shards."""
    store, corpus = folder / "store", folder / "stored.txt"
    if not store.exists():
        corpus.write_text(TEXT)
        tokenize(Plan([corpus], CharTokenizer.from_text(TEXT), block_bytes=64, shard_tokens=100), store)
    return store


def use(store: Path, folder: Path) -> None:
    """Open a store and take all batches of it."""
    TokenStore.open(store).tokens().tolist()
    datamodule = TextDataModule(str(store), context_length=8, cache_dir=str(folder / "cache"))
    datamodule.setup("fit")
    for inputs, targets, *_ in datamodule.train_dataloader():
        assert max(int(inputs.max()), int(targets.max())) < datamodule.vocab_size


@tries(60)
@given(st.data())
def test_a_damaged_token_store(folder, data):
    store = stored(folder)
    name = data.draw(st.sampled_from(sorted(file.name for file in store.iterdir())))
    whole = (store / name).read_bytes()
    (store / name).write_bytes(data.draw(damage(whole)))
    try:
        with bounded(), contextlib.suppress(LLMError, FileNotFoundError):
            use(store, folder)
    finally:
        (store / name).write_bytes(whole)


@tries(40)
@given(st.data())
def test_a_damaged_folder_of_hugging_face(folder, data):
    model = folder / "hf"
    if not model.exists():
        tokenizer = tokenizers()[2]
        config = GPTConfig(vocab_size=tokenizer.vocab_size, context_length=8, n_layer=1, n_head=2, n_embd=4)
        export(Pretrained("llm", config, GPT(config).state_dict(), tokenizer), model, "hf")
    file = data.draw(st.sampled_from(sorted(model.iterdir())))
    whole = file.read_bytes()
    file.write_bytes(data.draw(damage(whole)))
    try:
        with bounded(), contextlib.suppress(LLMError):
            llm.load(model)
    finally:
        file.write_bytes(whole)


# Damaged values


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def tokenizers() -> list[Tokenizer]:
    signs = sorted(PRINTABLE.values())
    pairs = {sign: number for number, sign in enumerate([*signs, "th", "the"])}
    return [
        CharTokenizer("abc", ["<|endoftext|>", "<|unk|>"]),
        WordTokenizer(["the", "cat"], specials=["<|endoftext|>", "<|unk|>"]),
        BytePairTokenizer(pairs, {"<|endoftext|>": len(pairs)}),
    ]


def spoil(draw, state, anything=ANYTHING):
    """Replace, remove or add a value or two, somewhere in nested dicts and lists."""
    for _ in range(draw(st.integers(1, 2))):
        spot, key = state, None
        while isinstance(spot, dict | list) and len(spot) and (key is None or draw(st.booleans())):
            parent, key = spot, draw(st.sampled_from(list(spot) if isinstance(spot, dict) else range(len(spot))))
            spot = parent[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if kind == "replace":
            parent[key] = draw(anything)
        elif kind == "remove":
            del parent[key]
        else:
            state[draw(st.text(max_size=5))] = draw(anything)


@tries(60)
@given(st.data())
def test_odd_values_in_a_checkpoint(checkpoint, folder, data):
    content = torch.load(checkpoint, weights_only=True)
    spoil(data.draw, content, ANYTHING | st.just(torch.zeros(2, 3)))
    write_checkpoint(content, folder / "values.ckpt")
    with bounded(), contextlib.suppress(LLMError):
        llm.load(folder / "values.ckpt")


@tries(60)
@given(st.data())
def test_odd_values_in_the_description_of_a_token_store(folder, data):
    store = stored(folder)
    whole = (store / "store.json").read_text()
    described = json.loads(whole)
    spoil(data.draw, described, ANYTHING.filter(lambda value: not isinstance(value, bytes)))
    (store / "store.json").write_text(json.dumps(described, default=str))
    try:
        with bounded(), contextlib.suppress(LLMError):
            use(store, folder)
    finally:
        (store / "store.json").write_text(whole)


@tries(120)
@given(st.data())
def test_a_damaged_tokenizer(data):
    state = json.loads(json.dumps(data.draw(st.sampled_from(tokenizers())).to_dict()))
    spoil(data.draw, state)
    with bounded(), contextlib.suppress(TokenizerError):
        tokenizer = tokenizer_from_dict(state)
        ids = tokenizer.encode("the cat abc")
        assert all(0 <= token < tokenizer.vocab_size for token in ids)
        tokenizer.decode(ids)
        assert tokenizer.fingerprint


# Settings


def field(good, bad=ANYTHING):
    """Mostly a value that makes sense."""
    return st.one_of(good, good, good, good, good, good, good, good, good, bad)


GPT_FIELDS = {
    "context_length": st.integers(1, 12),
    "n_layer": st.integers(1, 2),
    "n_head": st.integers(1, 4),
    "n_embd": st.sampled_from([1, 2, 3, 4, 6, 8]),
    "attention": st.sampled_from(["dot", "self", "causal", "multi_head"]),
    "positions": st.sampled_from(["learned", "rotary"]),
    "qk_norm": st.booleans(),
    "scale_scores": st.booleans(),
    "normalize_scores": st.sampled_from(["softmax", "sum"]),
    "norm": st.sampled_from(["layer_norm", "rms_norm", "none"]),
    "norm_epsilon": st.floats(1e-12, 1.0),
    "mlp": st.sampled_from(["plain", "none"]),
    "activation": st.sampled_from(["gelu", "gelu_exact", "relu", "silu", "squared_relu"]),
    "mlp_hidden": st.none() | st.integers(1, 9),
    "residual": st.booleans(),
    "projection_init": st.sampled_from(["small", "zero"]),
    "dropout": st.floats(0.0, 0.99),
    "bias": st.booleans(),
    "qkv_bias": st.booleans(),
    "tie_head": st.booleans(),
    "vocab_multiple": st.integers(1, 70),
}
OPTIM_FIELDS = {
    "kind": st.sampled_from(["adamw", "muon"]),
    "learning_rate": st.floats(1e-8, 1e30),
    "muon_learning_rate": st.floats(1e-8, 1e3),
    "muon_momentum": st.floats(0, 0.999),
    "schedule": st.sampled_from(["cosine", "warmup_stable_decay"]),
    "decay_fraction": st.floats(0, 1),
    "final_learning_rate_ratio": st.floats(0, 1),
    "warmup_steps": st.integers(0, 5),
    "weight_decay": st.floats(0, 10),
    "beta1": st.floats(0, 0.999),
    "beta2": st.floats(0, 0.999),
    "epsilon": st.floats(1e-12, 1.0),
}
DATA_FIELDS = {
    "stride": st.none() | st.integers(1, 20),
    "batch_size": st.integers(1, 9),
    "shuffle": st.booleans(),
    "drop_last": st.booleans(),
    "validation_fraction": st.floats(0, 0.9),
    "seed": st.integers(0, 2**64),
}


def some_of(draw, fields, bad=ANYTHING):
    """A few settings out of all."""
    names = draw(st.lists(st.sampled_from(sorted(fields)), unique=True, max_size=6))
    return {name: draw(field(fields[name], bad)) for name in names}


@tries(20, seldom=4)
@given(st.data())
def test_random_settings_train_two_steps_or_are_refused(folder, data):
    gpt, optim = (some_of(data.draw, fields) for fields in (GPT_FIELDS, OPTIM_FIELDS))
    options = some_of(data.draw, DATA_FIELDS, st.integers(-2, 2))  # on the command line, the parser holds them to types
    kind = data.draw(st.sampled_from(["char", "word"]))
    text = data.draw(st.sampled_from([TEXT, TEXT, TEXT, "short", "é" * 40]))
    action = data.draw(st.sampled_from(["stop", "skip"]))
    (folder / "some.txt").write_text(text, encoding="utf-8")
    small = {"n_layer": 1, "n_head": 2, "n_embd": 8, "context_length": 8}
    try:
        with bounded():
            config = GPTConfig(**{"vocab_size": 5, **small, **gpt})  # settings alone come first, as on the command line
            settings_of_optimizer = OptimConfig(**optim)
            datamodule = TextDataModule(
                str(folder / "some.txt"),
                TokenizerConfig(kind),
                context_length=config.context_length,
                cache_dir=str(folder / "cache"),
                **options,
            )
            config = GPTConfig(**{**small, **gpt, "vocab_size": datamodule.vocab_size})
            module = LanguageModel(config, settings_of_optimizer, non_finite=action)
            trainer = L.Trainer(
                accelerator="cpu",
                max_steps=2,
                val_check_interval=2,
                check_val_every_n_epoch=None,
                limit_val_batches=1,
                logger=False,
                default_root_dir=folder,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                use_distributed_sampler=False,
            )
            trainer.fit(module, datamodule)
    except LLMError:
        return
    assert trainer.global_step == 2
    assert all(parameter.isfinite().all() for parameter in module.parameters())


CONFIGURATION = """
seed_everything: 1
model:
  gpt: {n_layer: 1, n_head: 2, n_embd: 8, attention: multi_head, dropout: 0.1}
  optim: {kind: adamw, learning_rate: 1.0e-3}
data:
  corpus: corpus.txt
  tokenizer: {kind: char}
  context_length: 8
  batch_size: 4
trainer: {max_steps: 1, limit_val_batches: 1, accelerator: cpu, logger: false, enable_progress_bar: false}
inspect: {every: 0}
samples: {every: 0}
checkpoint: {folder: kept}
"""


def one_line(call, words, capsys) -> int:
    """Run a command; if it fails it says why in one line."""
    capsys.readouterr()
    begun = time.monotonic()
    with bounded():
        status = call(words)
    assert time.monotonic() - begun < SECONDS
    last = (capsys.readouterr().err.strip().splitlines() or [""])[-1]
    assert status == 0 or last.startswith("error: "), last
    return status


@tries(14, seldom=10)
@given(st.data())
def test_a_damaged_configuration(folder, capsys, data):
    (folder / "corpus.txt").write_text(TEXT)
    path = folder / "bad.yaml"
    path.write_bytes(data.draw(damage(CONFIGURATION.encode())))
    one_line(train, ["fit", "--config", str(path)], capsys)


@tries(14, seldom=10)
@given(st.data())
def test_damaged_files_at_the_command_line(checkpoint, folder, capsys, data):
    path = folder / "line.ckpt"
    path.write_bytes(data.draw(damage(checkpoint.read_bytes())))
    one_line(command, ["generate", "--ckpt", str(path), "--prompt", "abc", "--max_new_tokens", "2"], capsys)
    (folder / "corpus.txt").write_text("abcdefgh" * 20)
    one_line(train, ["validate", "--ckpt_path", str(path), "--data.corpus=corpus.txt"], capsys)


@tries(14, seldom=10)
@given(st.data())
def test_a_run_that_goes_on_from_odd_values(folder, capsys, data):
    words = ["fit", "--config", "good.yaml", "--trainer.val_check_interval=2"]
    (folder / "corpus.txt").write_text(TEXT)
    (folder / "good.yaml").write_text(CONFIGURATION)
    begun = folder / "begun" / "last.ckpt"
    if not begun.exists():
        assert train([*words, "--checkpoint.folder=begun"]) == 0
    content = torch.load(begun, weights_only=True)
    spoil(data.draw, content, ANYTHING | st.just(torch.zeros(2, 3)))
    write_checkpoint(content, folder / "odd" / "last.ckpt")
    odd = ["--ckpt_path=odd/last.ckpt", "--trainer.max_steps=3", "--checkpoint.folder=odd"]
    one_line(train, [*words, *odd], capsys)
