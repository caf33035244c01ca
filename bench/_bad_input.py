"""Faults of `bench.faults` that come in by a file or a setting: code in it, damage, and what makes no sense."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

from bench._processes import REPOSITORY, Ended, Moment, Run
from bench.faults import FIT, GO_ON, VARIANTS, Lost, begun, fault, prepare, refused, result_of, survive, uninterrupted
from llm import LanguageModel
from llm.pretrained.checkpoint import read_checkpoint

CANARY = "canary"
STEPS = VARIANTS["max_steps"]


class Payload:
    """Unpickled, it leaves a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({CANARY!r}, 'w').write('code ran')",)


class Poison(L.Callback):
    """Makes the loss, or a gradient, of some batches of a run NaN or infinite.

    Args:
        batches: which, from 0.
        where: `loss` or `gradient`.
        value: what it becomes.
    """

    def __init__(self, batches: list[int], where: str = "loss", value: float = float("nan")) -> None:
        self.batches, self.where, self.value = batches, where, value

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Listen to the embeddings."""
        del stage
        assert isinstance(pl_module, LanguageModel)

        def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
            del module, args
            is_here = self.where == "loss" and pl_module.training and trainer.fit_loop.total_batch_idx in self.batches
            return output * self.value if is_here else output

        pl_module.gpt.embeddings.register_forward_hook(spoil)

    def on_after_backward(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Spoil one gradient."""
        if self.where == "gradient" and trainer.fit_loop.total_batch_idx in self.batches:
            assert isinstance(pl_module, LanguageModel)
            gradient = next(pl_module.gpt.final_norm.parameters()).grad
            assert gradient is not None
            gradient[0] = self.value


def poison(batches: list[int], where: str, value: str) -> list[str]:
    """The words that spoil some batches of a run."""
    made = {"class_path": "bench._bad_input.Poison", "init_args": {"batches": batches, "where": where, "value": value}}
    return ["--allow_classes=bench", f"--trainer.callbacks={json.dumps([made])}"]


VARIANTS["skipped steps"] = [*STEPS, "--model.non_finite=skip", *poison([3, 4, 17], "gradient", ".nan")]


def command(folder: Path, *words: str) -> Ended:
    """Run `python -m llm`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-m", "llm", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=600
    )
    return Ended(ended.returncode, ended.stderr)


@fault("pickle with code in .ckpt, .bin, .pt, .pth, by every entry", 18)
def _pickle(folder: Path, rng: random.Random) -> str:
    prepare(folder)
    file = f"evil.{rng.choice(['ckpt', 'bin', 'pt', 'pth'])}"
    content = {"llm": {"version": 1}, "state_dict": {"a": torch.zeros(1)}, "x": Payload()}
    kind = rng.choice(["zip", "legacy", "plain"])
    if kind == "plain":
        (folder / file).write_bytes(pickle.dumps(Payload()))
    else:
        torch.save(content, folder / file, _use_new_zipfile_serialization=kind == "zip")
    file = rng.choice([file, file, f"http://127.0.0.1:1/{file}"])
    entries = {
        "fit": lambda: Run(folder, [*FIT, f"--ckpt_path={file}"]).wait(),
        "pretrained": lambda: Run(folder, [*FIT, f"--model.pretrained={file}"]).wait(),
        "tokenizer": lambda: Run(folder, [*FIT, f"--data.tokenizer.checkpoint={file}"]).wait(),
        "validate": lambda: Run(folder, ["validate", f"--ckpt_path={file}"]).wait(),
        "generate": lambda: command(folder, "generate", "--ckpt", file, "--prompt", "a"),
        "import": lambda: command(folder, "import", "--from", file, "--out", "out.ckpt"),
        "export": lambda: command(folder, "export", "--ckpt", file, "--out", "out"),
        "evaluate": lambda: command(folder, "evaluate", "--ckpt", file, "--data.corpus", "corpus.txt"),
        "attention": lambda: command(folder, "attention", "--ckpt", file, "--text", "a"),
    }
    ended = entries[rng.choice(list(entries))]()
    if (folder / CANARY).exists():
        raise Lost("code ran")
    return refused(ended)


@fault("class or function of another package in a configuration", 8)
def _foreign_class(folder: Path, rng: random.Random) -> str:
    prepare(folder)
    (folder / "foreign.py").write_text(f"open({CANARY!r}, 'w')\nfrom lightning import Callback as Mine\n")
    path = rng.choice(["foreign.Mine", "os.system", "subprocess.Popen", "builtins.exec", "torch.hub.load"])
    setting = rng.choice(["callbacks", "logger", "plugins"])
    (folder / "evil.yaml").write_text(f"trainer: {{{setting}: {{class_path: {path}, init_args: {{args: ls}}}}}}\n")
    words = rng.choice([["--config=evil.yaml"], [f"--trainer.{setting}={path}"]])
    ended = Run(folder, [*FIT, *words], environment={"PYTHONPATH": str(folder)}).wait()
    if (folder / CANARY).exists():
        raise Lost("it was imported")
    return refused(ended, "" if path.startswith("torch") else "is code of another package")


@fault("text that is empty, not UTF-8, binary, or half a surrogate pair", 8)
def _bad_text(folder: Path, rng: random.Random) -> str:
    prepare(folder)
    offset = rng.randrange(2000)
    name, content, expected = rng.choice(
        [
            ("a.txt", b" \n" * offset, "is empty"),
            ("a.txt", b"a " * offset + b"\xff", f"byte 0xff at offset {2 * offset}"),
            ("a.txt", b"a " * offset + b"\0", f"NUL byte at offset {2 * offset}"),
            ("a.txt", rng.randbytes(5000), "is not "),
            ("a.jsonl", b'{"text": "a"}\n' * offset + b'{"text": "\\ud800"}', f"line {offset + 1}: the text is not"),
            ("a.jsonl", b'{"text": "a"}\n' * offset + b'{"text', f"line {offset + 1}: not JSON"),
        ]
    )
    (folder / name).write_bytes(content)
    return refused(Run(folder, [*FIT, f"--data.corpus={name}"]).wait(), expected)


@fault("one line of 1 GB, in 300 MB of memory", 3)
def _endless_line(folder: Path, rng: random.Random) -> str:
    prepare(folder)
    kind = rng.choice(["zeros", "letters", "record"])
    path = folder / ("a.jsonl" if kind == "record" else "a.txt")
    with path.open("wb") as file:
        if kind == "zeros":
            file.truncate(1 << 30)
        file.write(b'{"text": "' if kind == "record" else b"")
        for _ in range(0 if kind == "zeros" else 1 << 10):
            file.write(b"a" * (1 << 20))
    program = (
        "import sys, pathlib; from llm.__main__ import main; status = main(sys.argv[1:]); "
        "print(pathlib.Path('/proc/self/status').read_text()); sys.exit(status)"
    )
    words = ["tokenize", "--input", path.name, "--output", "shards", "--tokenizer", "char", "--threads", "2"]
    ended = subprocess.run(
        [sys.executable, "-c", program, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if (peak := int(ended.stdout.split("VmHWM:")[1].split()[0]) >> 10) > 300:
        raise Lost(f"{kind}: it took {peak} MB")
    return refused(Ended(ended.returncode, ended.stderr))


@fault("text too short for a window, or for a validation split", 3)
def _too_short(folder: Path, rng: random.Random) -> str:
    prepare(folder)
    (folder / "short.txt").write_text("the cat")
    words, found = rng.choice(
        [
            (["--data.corpus=short.txt"], "train has 6, validation has 1"),
            (["--data.validation_fraction=0.001"], "validation has 2"),
            (["--data.validation_corpus=short.txt"], "validation has 7"),
        ]
    )
    return refused(Run(folder, [*FIT, *words]).wait(), "needs 9 tokens", found)


@fault("context longer than the positions", 3)
def _too_long(folder: Path, rng: random.Random) -> str:
    last = begun(folder) / "last.ckpt"
    words = rng.choice([["--ckpt_path=last"], [f"--ckpt_path={last}"], [f"--model.pretrained={last}"]])
    return refused(Run(folder, [*FIT, *STEPS, *words, "--data.context_length=16"]).wait(), "context_length", "8", "16")


@fault("NaN or Inf in loss or gradient, stopped and resumed", 6)
def _not_finite(folder: Path, rng: random.Random) -> str:
    prepare(folder)
    step = rng.randrange(31)
    words = poison([step], rng.choice(["loss", "gradient"]), rng.choice([".nan", ".inf", "-.inf"]))
    happened = refused(Run(folder, [*FIT, *STEPS, *words]).wait(), f"step {step}: the ", "batch ", "token ids and text")
    (kept,) = folder.rglob("non_finite/*.json")
    if json.loads(kept.read_text())["step"] != step:
        raise Lost("the file is of another step")
    for checkpoint in folder.rglob("*.ckpt"):
        saved = read_checkpoint(checkpoint)
        if saved["global_step"] > step or not all(t.isfinite().all() for t in saved["state_dict"].values()):
            raise Lost(f"{checkpoint.name} is of step {saved['global_step']}, or not finite")
    if Run(folder, [*FIT, *STEPS, *GO_ON]).wait().status != 0:
        raise Lost("it does not go on")
    if difference := result_of(folder).difference(uninterrupted("max_steps")[0]):
        raise Lost(difference)
    return happened


@fault("kill -9 of a run that skips steps", 6)
def _killed_with_steps_left_out(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, "skipped steps", rng.choice(["save", "edge"]))


@fault("damaged cache of token ids", 4)
def _damaged_cache(folder: Path, rng: random.Random) -> str:
    begun(folder)
    file = rng.choice(sorted(path for path in (folder / "data" / "cache").rglob("*") if path.suffix != ".txt"))
    while not file.is_file():
        file = rng.choice(sorted((folder / "data" / "cache").rglob("*")))
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    ended = Run(folder, [*FIT, *STEPS, *GO_ON]).wait()
    if ended.status != 0:
        raise Lost(f"{file.name}: it ended with {ended.status}: {ended.last_line}")
    if difference := result_of(folder).difference(uninterrupted("max_steps")[0]):
        raise Lost(f"{file.name}: {difference}")
    return "built again"


@fault("three runs that build one cache at once, one of them killed", 3)
def _one_cache(folder: Path, rng: random.Random) -> str:
    prepare(folder)
    words = [*FIT, "--trainer.max_steps=3", f"--data.cache_dir={folder / 'cache'}", "--data.corpus=../text.txt"]
    (folder / "text.txt").write_text("the cat sat on the mat, and the dog sat by the door; " * 40_000)
    runs = []
    for number in range(3):
        (folder / f"{number}").mkdir()
        moment = Moment("hook", "on_train_start", delay=rng.uniform(0, 0.1)) if number == 0 else None
        runs.append(Run(folder / f"{number}", words, moment))
    for number, run in enumerate(runs):
        ended = run.wait()
        if number and ended.status != 0:
            raise Lost(f"it ended with {ended.status}: {ended.last_line}")
    if left := [path.name for path in (folder / "cache").rglob("*.tmp")]:
        raise Lost(f"{left} was left")
    return "all but the killed one ended well"
