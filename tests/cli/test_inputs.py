"""Bad input at the command line: one line that says what is wrong, or a documented result; caches that are damaged."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest

from llm.__main__ import main as command
from llm.cli.main import main as train
from llm.config import GPTConfig, TokenizerConfig
from llm.data import TextDataModule, TokenStore
from llm.errors import ConfigError
from llm.pretrained.checkpoint import read_checkpoint
from llm.tasks import LanguageModel

REPOSITORY = Path(__file__).parents[2]
CHAR = ["--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.tokenizer.kind=char"]
QUICK = [*CHAR, "--data.batch_size=2", "--trainer.max_steps=2", "--inspect.every=0", "--samples.every=0"]
RUN = [*QUICK, "--data.context_length=16", "--trainer.limit_val_batches=1"]
LONG = bool(os.environ.get("LLM_FUZZ_RUNS"))
MEGABYTES = 1024 if LONG else 96
"""Of a line; one of 1 GB takes a minute, so every day it is a shorter one that must not be held in memory either."""


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def fit(*words: str) -> int:
    return train(["fit", *RUN, *words], default_config=REPOSITORY / "configs" / "default.yaml")


def error_of(capsys, call, *words) -> str:
    capsys.readouterr()
    assert call(*words) != 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    return last


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint with a context of 16."""
    folder = tmp_path_factory.mktemp("trained")
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert fit() == 0
    finally:
        os.chdir(before)
    return str(next(folder.rglob("last.ckpt")))


# Text


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", b"", "'a.txt' is empty: 0 bytes"),
        ("a.txt", b"text \xff" * 50, "byte 0xff at offset 5"),
        ("a.txt", "text".encode("utf-16"), "byte 0xff at offset 0"),
        ("a.txt", b"text\0text" * 50, "is not text: NUL byte at offset 4"),
        ("a.txt", bytes(range(1, 256)), "byte 0x80 at offset 127"),
        ("a.jsonl", b'{"text": "half a \\ud800 pair"}\n', "'a.jsonl', line 1: the text is not valid Unicode"),
        ("a.jsonl", b'{"text": "fine"}\n{"text": "\\udc80"}\n', "'a.jsonl', line 2: the text is not valid Unicode"),
        ("a.jsonl", b'{"text": 1}\n', "'a.jsonl', line 1: field 'text' must hold text"),
    ],
)
@pytest.mark.parametrize("kind", ["char", "word", "gpt2"])
def test_bad_text_is_named(capsys, name, content, expected, kind):
    Path(name).write_bytes(content)
    message = error_of(capsys, fit, f"--data.corpus={name}", f"--data.tokenizer.kind={kind}")
    assert expected in message
    assert not Path("runs").exists()
    assert not list(Path().rglob("*.tokens"))


def test_a_byte_order_mark_and_windows_line_breaks_are_left_out(tmp_path):
    text = "the cat sat.\nthe dog sat.\n" * 20
    tokens = []
    for name, content in (
        ("unix.txt", text.encode()),
        ("windows.txt", b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode()),
    ):
        Path(name).write_bytes(content)
        tokens.append(TextDataModule(name, TokenizerConfig("char"), context_length=8).train_tokens.tolist())
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("kind", ["zeros", "letters", "record"])
def test_one_endless_line_is_refused_in_bounded_memory(tmp_path, kind):
    path = tmp_path / ("a.jsonl" if kind == "record" else "a.txt")
    with path.open("wb") as file:
        if kind == "zeros":
            file.truncate(MEGABYTES << 20)  # takes no room on the disk
        file.write(b'{"text": "' if kind == "record" else b"")
        for _ in range(0 if kind == "zeros" else MEGABYTES):
            file.write(b"a" * (1 << 20))
    status, errors, memory = tokenized(path)
    assert status == 1
    expected = {
        "zeros": "NUL byte at offset 0",
        "letters": "no letter or digit with white space after",
        "record": "line 1",
    }
    assert expected[kind] in errors[-1]
    assert memory < 300 << 20


def test_one_long_line_of_words_is_tokenized_in_bounded_memory(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        for _ in range(MEGABYTES):
            file.write(b"the cat " * (1 << 17))
    status, errors, memory = tokenized(path)
    assert status == 0, errors
    assert TokenStore.open(tmp_path / "shards").n_tokens == MEGABYTES << 20
    assert memory < 300 << 20


def tokenized(path: Path) -> tuple[int, list[str], int]:
    """Exit status, error lines, and the most memory, of a process that tokenizes a file."""
    words = ["tokenize", "--input", str(path), "--output", "shards", "--tokenizer", "char", "--threads", "2"]
    program = (
        "import sys, pathlib; from llm.__main__ import main; status = main(sys.argv[1:]); "
        "print(pathlib.Path('/proc/self/status').read_text()); sys.exit(status)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.run(
        [sys.executable, "-c", program, *words], env=environment, capture_output=True, text=True, timeout=600
    )
    kilobytes = int(process.stdout.split("VmHWM:")[1].split()[0])
    return process.returncode, process.stderr.strip().splitlines(), kilobytes * 1024


def test_text_from_the_shell_that_is_no_unicode(capsys, trained):
    odd = "Two\udcff"  # how Python shows a byte of a word that is not UTF-8
    for words in (
        ["generate", "--ckpt", trained, "--prompt", odd],
        ["attention", "--ckpt", trained, "--text", odd],
        ["trace", "--text", odd],
        ["trace", "--ckpt", trained, "--text", odd],
    ):
        error_of(capsys, command, words)


# Too short


@pytest.mark.parametrize(
    ("words", "needed", "found"),
    [
        (["--data.corpus=short.txt"], "needs 17 tokens", "train has 9, validation has 2"),
        (["--data.validation_fraction=0.0001"], "needs 17 tokens", "validation has 3 (validation_fraction is 0.0001)"),
        (["--data.validation_corpus=short.txt"], "needs 17 tokens", "validation has 11"),
        (["--data.context_length=100000"], "needs 100,001 tokens", "train has"),
    ],
)
def test_too_short_for_one_window_gives_both_numbers(capsys, words, needed, found):
    Path("short.txt").write_text("The Bishop.")
    message = error_of(capsys, fit, *words)
    assert needed in message
    assert found in message


def test_too_short_to_evaluate(capsys, trained):
    Path("short.txt").write_text("The Bishop.")
    words = ["--ckpt_path", trained, "--data.validation_corpus=short.txt"]
    assert "needs 17 tokens, validation has 11" in error_of(capsys, train, ["validate", *words])
    Path("short.txt").write_text("T")
    assert "1 tokens" in error_of(capsys, command, ["evaluate", "--ckpt", trained, "--data.corpus", "short.txt"])


# Too long


def test_a_context_longer_than_the_positions_is_refused(capsys, trained, tmp_path):
    wanted = "--data.context_length=32"
    for call, words in (
        (fit, ["--ckpt_path", trained, wanted]),
        (fit, ["--model.pretrained", trained, wanted]),
        (train, [["validate", "--ckpt_path", trained, wanted]]),
        (train, [["test", "--ckpt_path", trained, wanted]]),
    ):
        message = error_of(capsys, call, *words)
        assert "context_length" in message
        assert "16" in message
        assert "32" in message
    assert "the weights have 16 positions, 32 requested" in error_of(
        capsys, command, ["import", "--from", trained, "--out", "x.ckpt", "--context_length", "32"]
    )
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the cat sat. " * 40)
    datamodule = TextDataModule(str(corpus), TokenizerConfig("char"), context_length=16)
    module = LanguageModel(GPTConfig(datamodule.vocab_size, context_length=8, n_layer=1, n_head=1, n_embd=8))
    trainer = L.Trainer(max_steps=1, logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ConfigError, match="the input has 16 tokens, the model's context holds 8"):
        trainer.fit(module, datamodule)


def test_texts_longer_than_the_context_are_cropped_and_that_is_said(capsys, trained):
    long = "the cat sat " * 20
    for words, said in (
        (["generate", "--ckpt", trained, "--prompt", long, "--max_new_tokens", "20"], "sees the last 16"),
        (["attention", "--ckpt", trained, "--text", long, "--tokens", "999"], "first 16 of 240 tokens"),
    ):
        assert command(words) == 0
        assert said in capsys.readouterr().err
    assert command(["trace", "--ckpt", trained, "--text", long]) == 0
    Path("long.txt").write_text(long)
    assert command(["evaluate", "--ckpt", trained, "--data.corpus", "long.txt"]) == 0
    for kind in ("continuations", "log_probabilities"):
        words = ["--data.prompts=long.txt", f"--predictions.kind={kind}", "--model.sampling.max_new_tokens=20"]
        assert train(["predict", "--ckpt_path", trained, *words]) == 0


# Settings that make no sense


def test_a_run_that_would_train_nothing_is_refused(capsys):
    for name in ("max_steps", "max_epochs", "limit_train_batches"):
        assert f"trainer.{name} is 0, so there is nothing to train" in error_of(capsys, fit, f"--trainer.{name}=0")
    assert not Path("runs").exists()


def test_a_run_that_was_at_its_end_says_so(capsys, trained):
    assert fit("--ckpt_path", trained) == 0
    assert "no step was made: the run was at its end already, at step 2" in capsys.readouterr().err


def test_a_configuration_that_unfolds_is_refused(capsys):
    levels = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)]
    for content in (
        "\n".join(["a0: &a0 [x, x, x]", *levels, "data: {corpus: *a9}"]),
        "data: &a {corpus: *a}",
        "data: {corpus: &a [*a]}",
    ):
        Path("bomb.yaml").write_text(content)
        assert "holds more than 100,000 values" in error_of(capsys, fit, "--config", "bomb.yaml")


def test_what_is_no_regular_file_is_not_waited_for(capsys):
    os.mkfifo("pipe")
    for file in ("pipe", "/dev/zero"):
        for call, words in (
            (fit, ["--ckpt_path", file]),
            (fit, ["--model.pretrained", file]),
            (fit, ["--data.corpus", file]),
            (command, [["generate", "--ckpt", file, "--prompt", "a"]]),
            (command, [["import", "--from", file, "--out", "x.ckpt"]]),
        ):
            assert "not a regular file" in error_of(capsys, call, *words)


def test_a_run_that_diverges_ends_with_the_batch_and_whole_weights(capsys):
    words = ["--model.optim.learning_rate=1e30", "--model.optim.warmup_steps=0", "--trainer.max_steps=20"]
    message = error_of(capsys, fit, *words, "--checkpoint.every=1")
    step = int(re.search(r"step (\d+): the (?:loss|gradient norm) is", message)[1])
    kept = json.loads(Path(re.search(r"token ids and text are in '([^']+)'", message)[1]).read_text())
    assert kept["step"] == step
    assert all(window["text"] for window in kept["batches"][0]["windows"])
    (last,) = Path("runs").rglob("last.ckpt")
    saved = read_checkpoint(last)
    assert saved["global_step"] == step
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


def test_bad_options_of_commands_are_one_line(capsys, trained):
    for words, expected in (
        (["generate", "--prompt", "a", "--device", "meta"], "no device 'meta' here"),
        (["attention", "--text", "a", "--device", "meta"], "no device 'meta' here"),
        (["generate", "--prompt", "a", "--n", "99999999999"], "n_samples must be at most 10000"),
        (["evaluate", "--data.corpus", "story", "--device", "meta"], "no device 'meta' here"),
    ):
        assert expected in error_of(capsys, command, [words[0], "--ckpt", trained, *words[1:]])


def test_an_empty_name_is_not_the_current_folder(capsys):
    for call, words in (
        (fit, ["--model.pretrained", ""]),
        (fit, ["--data.tokenizer.checkpoint", ""]),
        (command, [["generate", "--ckpt", "", "--prompt", "a"]]),
        (command, [["import", "--from", "", "--out", "x.ckpt"]]),
    ):
        assert "the name of the weights is empty" in error_of(capsys, call, *words)


# Caches


def cached_store() -> Path:
    (shard,) = Path("data/cache").rglob("*.tokens")
    return shard


def test_a_damaged_cache_is_found_and_built_again(capsys):
    assert fit() == 0
    shard = cached_store()
    whole = shard.read_bytes()
    description = shard.with_name("store.json").read_bytes()
    flipped = bytearray(whole)
    flipped[-100] ^= 1
    for damaged in (whole[:-10], b"", bytes(len(whole)), bytes(flipped), whole + b"\0\0"):
        shard.write_bytes(damaged)
        capsys.readouterr()
        assert fit() == 0
        assert "building it again" in capsys.readouterr().err
        assert shard.read_bytes() == whole
    for damaged in (b"", b"{}", description[:-20], b"\xff" + description):
        shard.with_name("store.json").write_bytes(damaged)
        assert fit() == 0
        assert shard.read_bytes() == whole
        assert shard.with_name("store.json").read_bytes() == description


def test_ids_outside_the_vocabulary_are_refused_when_they_are_used(capsys, monkeypatch):
    monkeypatch.setattr("llm.data.tokens.store.CHECKED_BYTES", 0)  # as if it were too large to be read whole
    assert fit() == 0
    shard = cached_store()
    content = bytearray(shard.read_bytes())
    content[512:] = np.full((len(content) - 512) // 2, 9999, "<u2").tobytes()
    shard.write_bytes(content)
    message = error_of(capsys, fit)
    assert "token id 9999 at position" in message
    assert "is outside the vocabulary of 62" in message


def started(*words: str, **options) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "train.py"), "fit", *RUN, *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, **options)


def test_a_full_disk_under_the_cache_is_one_line_and_leaves_nothing():
    Path("text.txt").write_text("the cat sat. " * 20_000)

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = started("--data.corpus=text.txt", preexec_fn=small_files)
    errors = process.communicate(timeout=120)[1].strip().splitlines()
    assert process.returncode == 1
    assert "can't use the token cache" in errors[-1]
    assert "choose another cache_dir" in errors[-1]
    assert not [file for file in Path("data/cache").rglob("*") if file.suffix in (".tokens", ".tmp")]


def test_runs_that_build_the_same_cache_at_once_do_not_disturb_each_other():
    Path("text.txt").write_text("the cat sat on the mat, and the dog sat by the door; " * 40_000)
    runs = [started("--data.corpus=text.txt", f"--trainer.logger.save_dir=runs{i}") for i in range(3)]
    for run in runs:
        errors = run.communicate(timeout=240)[1]
        assert run.returncode == 0, errors
    corpora = [json.loads(store.read_text())["n_tokens"] for store in Path("data/cache").rglob("store.json")]
    assert corpora == [Path("text.txt").stat().st_size]
    assert not list(Path("data/cache").rglob("*.tmp"))
