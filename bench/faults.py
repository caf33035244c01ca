"""What a run survives: kills, full disks, damaged files, another corpus, two runs in one folder.

Every try is a real process in a folder of its own. A run that was killed is started again with the same command, until
it ends; it has survived if it has the losses of one that was never interrupted, bit for bit, each exactly once, and the
same weights and optimizer in `last.ckpt`, and the same `best.ckpt`. A fault that a run can't survive has to be refused
with one line that says why, and leave what was there.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench._processes import COUNTS, Ended, Moment, Run
from llm.errors import CheckpointError
from llm.pretrained.checkpoint import read_checkpoint

TEXT = "the cat sat on the mat, and the dog sat by the door; a bird sang in the old oak tree.\n" * 12
NOUNS = ("cat", "dog", "bird", "tree", "door", "mat")
VERBS = ("sat", "sang", "ran", "fell", "slept", "grew", "stood", "left", "came", "went")
PAIRS = "".join(f"the {noun} {verb}\t{verb[::-1]} {noun[::-1]}\n" for noun in NOUNS for verb in VERBS)
_COMMON = [
    "--data.tokenizer.kind=char",
    "--data.batch_size=8",
    "--model.optim.warmup_steps=5",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.val_check_interval=7",
    "--trainer.enable_progress_bar=false",
    "--checkpoint.every=3",
    "--inspect.every=0",
]
_WINDOWS = [
    "--data.corpus=corpus.txt",
    "--data.context_length=8",
    "--data.stride=8",
    "--data.evaluation_batch_size=8",
]
_NETWORK = "{n_layer: 1, n_head: 2, n_embd: 16, dropout: 0.3}"
FIT = ["fit", *_WINDOWS, f"--model.gpt={_NETWORK}", *_COMMON, "--samples.every=0"]
GO_ON = ["--ckpt_path=last", "--fresh"]
VARIANTS: dict[str, list[str]] = {
    "max_steps": ["--trainer.max_steps=31"],
    "2 workers": ["--trainer.max_steps=31", "--data.num_workers=2"],
    "accumulation": ["--trainer.max_steps=17", "--trainer.accumulate_grad_batches=2"],
    "max_epochs": ["--trainer.max_steps=-1", "--trainer.max_epochs=3"],
    "all": ["--trainer.max_steps=-1", "--trainer.max_epochs=4", "--trainer.accumulate_grad_batches=3",
            "--data.num_workers=2", "--checkpoint.every=1"],
    "muon": ["--trainer.max_steps=31", "--model.optim.kind=muon"],
}  # fmt: skip
TASKS: dict[str, list[str]] = {
    "masked": ["fit", "--task=masked", *_WINDOWS, f"--model.encoder={_NETWORK}", *_COMMON, "--trainer.max_steps=31"],
    "translate": ["fit", "--task=translate", "--data.corpus=pairs.tsv", "--data.context_length=16",
                  f"--model.transformer={_NETWORK}", *_COMMON, "--trainer.max_steps=31"],
    "rnn": ["fit", "--task=translate", "--data.corpus=pairs.tsv", "--data.context_length=16", "--model.kind=rnn",
            "--model.rnn={n_embd: 8, hidden_size: 12, dropout: 0.3}", *_COMMON, "--trainer.max_steps=31"],
    "word_vectors": ["fit", "--task=word_vectors", *_WINDOWS, "--model.words.n_embd=8", *_COMMON,
                     "--data.tokenizer.kind=word", "--data.sample=0", "--trainer.max_steps=31"],
}  # fmt: skip
"""Runs of other tasks than the default one."""
EDGES = (
    "on_train_batch_start", "on_train_batch_end", "on_before_optimizer_step", "on_validation_start",
    "on_validation_batch_end", "on_validation_end", "on_train_epoch_start", "on_train_epoch_end", "on_train_end",
)  # fmt: skip


class Lost(Exception):
    """A try was not survived; the message says what was lost."""


@dataclass
class Fault:
    """One kind of fault: `trial` raises `Lost`, or gives what happened in a word or two."""

    name: str
    tries: int
    trial: Callable[[Path, random.Random], str]
    lost: list[str] = field(default_factory=list)


FAULTS: dict[str, Fault] = {}


def fault(name: str, tries: int) -> Callable[[Callable[[Path, random.Random], str]], Callable[..., str]]:
    """Register a function as a fault that is tried so many times."""

    def register(trial: Callable[[Path, random.Random], str]) -> Callable[[Path, random.Random], str]:
        FAULTS[name] = Fault(name, tries, trial)
        return trial

    return register


# What a run leaves


@dataclass(frozen=True)
class Result:
    """What has to be the same: curves by name, (step, hex of the loss), and the content of both checkpoints."""

    curves: dict[str, list[tuple[int, str]]]
    last: dict[str, Any]
    best: dict[str, Any]

    def difference(self, other: Result) -> str | None:
        """What is not the same, or None."""
        for name, curve in self.curves.items():
            if curve != other.curves[name]:
                steps = sorted({step for step, _ in {*curve} ^ {*other.curves[name]}}) or [s for s, _ in curve]
                return f"{name} differs at the steps {steps[:5]}, or is there twice"
        for name in ("last", "best"):
            if where := _different(getattr(self, name), getattr(other, name)):
                return f"{name}.ckpt differs in {where}"
        return None


def result_of(folder: Path) -> Result:
    """Read it from the newest run folder."""
    (run, *_) = sorted((path.parent.parent for path in folder.rglob("last.ckpt")), key=lambda run: run.name)[::-1]
    events = EventAccumulator(str(run), {"scalars": 0}).Reload()
    curves = {
        name: [(event.step, float(event.value).hex()) for event in events.Scalars(name)]
        for name in ("train/loss", "validation/loss")
    }
    weights = ("state_dict", "global_step")
    kept = {"last.ckpt": (*weights, "optimizer_states", "lr_schedulers"), "best.ckpt": weights}
    checkpoints = {file: read_checkpoint(run / "checkpoints" / file) for file in kept}
    return Result(curves, *({name: checkpoints[file][name] for name in names} for file, names in kept.items()))


def _different(first: Any, second: Any, where: str = "") -> str | None:
    """Where two nested values differ in a bit, or None."""
    if isinstance(first, torch.Tensor):
        return None if torch.equal(first, second) else where
    if isinstance(first, dict | list):
        keys = first.keys() if isinstance(first, dict) else range(len(first))
        if len(first) != len(second):
            return where
        return next((found for key in keys if (found := _different(first[key], second[key], f"{where}/{key}"))), None)
    return None if first == second else where


def words_of(variant: str) -> list[str]:
    """The command of a variant, or of another task, which goes on where it was interrupted."""
    return [*TASKS.get(variant, [*FIT, *VARIANTS.get(variant, [])]), *GO_ON]


@cache
def uninterrupted(variant: str) -> tuple[Result, dict[str, int]]:
    """What a variant's run leaves, and how often each moment comes in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = prepare(Path(name))
        ended = Run(folder, words_of(variant)).wait()
        if ended.status != 0:
            raise RuntimeError(f"the run without a fault fails:\n{ended.errors}")
        return result_of(folder), json.loads((folder / COUNTS).read_text())


def prepare(folder: Path) -> Path:
    """A working directory with a corpus, and one of pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "corpus.txt").write_text(TEXT)
    (folder / "pairs.tsv").write_text(PAIRS)
    return folder


# Kills


def moments(kind: str, counts: dict[str, int], rng: random.Random) -> Iterator[Moment]:
    """Moments to be killed at, within what a run does."""
    while True:
        if kind == "save":
            delay = rng.choice([0.0, rng.uniform(0, 0.004)])
            yield Moment("file", number=rng.randint(1, counts["file"]), delay=delay)
        else:
            hook = rng.choice([hook for hook in EDGES if hook in counts])
            delay = rng.choice([-1.0, 0.0, rng.uniform(0, 0.01)])
            yield Moment("hook", hook, rng.randint(1, counts[hook]), delay)


def survive(
    folder: Path, rng: random.Random, variant: str, kind: str, kills: int = 1, environment: dict[str, str] | None = None
) -> str:
    """Kill a run, go on, kill it again, and so on; then let it end, and compare."""
    expected, counts = uninterrupted(variant)
    words = words_of(variant)
    prepare(folder)
    chosen = moments(kind, counts, rng)
    happened: list[Moment] = []
    for _ in range(kills):
        if kind == "random":
            run = Run(folder, words, environment=environment)
            run.process.join(rng.uniform(0.2, 2.5))
            ended, moment = run.kill(), Moment("random")
        else:
            moment = next(chosen)
            ended = Run(folder, words, moment, environment).wait()
        if ended.status not in (0, -9):
            raise Lost(f"{variant}, after {happened}: {ended.last_line}")
        for checkpoint in folder.rglob("*.ckpt"):
            try:
                read_checkpoint(checkpoint)
            except CheckpointError as error:
                raise Lost(f"{variant}, {moment}: {error}") from error
        if ended.status == -9:
            happened.append(moment)
        else:  # the moment did not come: the run is over
            break
    ended = Run(folder, words, environment=environment).wait()
    if ended.status != 0:
        raise Lost(f"{variant}, after {happened}: {ended.last_line}")
    if left := [path.name for path in folder.rglob("*.tmp")]:
        raise Lost(f"{variant}, after {happened}: {left} was left")
    if difference := result_of(folder).difference(expected):
        raise Lost(f"{variant}, after {happened}: {difference}")
    return f"{len(happened)} kills"


@fault("kill -9 inside a save", 26)
def _killed_in_save(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, rng.choice(list(VARIANTS)), "save")


@fault("kill -9 at an edge of epoch, accumulation or validation", 14)
def _killed_at_edge(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, rng.choice(list(VARIANTS)), "edge")


@fault("kill -9 of a run of the task masked", 8)
def _killed_masked(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, "masked", rng.choice(["save", "edge"]))


@fault("kill -9 of a run of the task translate", 8)
def _killed_translate(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, "translate", rng.choice(["save", "edge"]))


@fault("kill -9 of a run of the task translate, recurrent", 8)
def _killed_recurrent(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, "rnn", rng.choice(["save", "edge"]))


@fault("kill -9 of a run of the task word_vectors", 8)
def _killed_word_vectors(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, "word_vectors", rng.choice(["save", "edge"]))


@fault("kill -9 at any time", 6)
def _killed_at_any_time(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, rng.choice(list(VARIANTS)), "random")


@fault("kill -9 three times in a row", 6)
def _killed_three_times(folder: Path, rng: random.Random) -> str:
    return survive(folder, rng, rng.choice(list(VARIANTS)), rng.choice(["save", "edge"]), kills=3)


@fault("kill -9 inside a save, TMPDIR on another file system", 4)
def _killed_with_another_tmpdir(folder: Path, rng: random.Random) -> str:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        if Path(other).stat().st_dev == folder.parent.stat().st_dev:
            raise RuntimeError("there is no second file system")
        happened = survive(folder, rng, "max_steps", "save", environment={"TMPDIR": other})
        if left := [path.name for path in Path(other).rglob("*.ckpt*")]:
            raise Lost(f"{left} was left in TMPDIR")
        return happened


# Damage


def begun(folder: Path, steps: int = 18) -> Path:
    """A run that was killed at a step; gives its folder of checkpoints."""
    prepare(folder)
    ended = Run(folder, [*FIT, *VARIANTS["max_steps"]], Moment("hook", "on_train_batch_start", steps)).wait()
    assert ended.status == -9, ended.errors
    return next(folder.rglob("last.ckpt")).parent


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Cut a file short, change one bit of a tensor in it, or empty it."""
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        del content[rng.randrange(1, len(content)) :]
    elif kind == "bit-flipped":
        tensor = next(iter(read_checkpoint(path)["state_dict"].values())).numpy().tobytes()
        content[content.index(tensor) + rng.randrange(len(tensor))] ^= 1 << rng.randrange(8)
    else:
        content.clear()
    path.unlink()  # what `previous.ckpt` may share stays
    path.write_bytes(content)


def refused(ended: Ended, *expected: str) -> str:
    """Hold a run to have ended with one line that says why."""
    if ended.status in (0, None) or ended.status < 0 or "Traceback" in ended.errors:
        raise Lost(f"it ended with {ended.status}: {ended.last_line}")
    if not all(text in ended.last_line for text in ("error: ", *expected)):
        raise Lost(f"it does not say {expected}: {ended.last_line}")
    return "refused"


@fault("newest checkpoint truncated, bit-flipped or empty", 6)
def _newest_damaged(folder: Path, rng: random.Random) -> str:
    last = begun(folder) / "last.ckpt"
    damage(last, rng.choice(["truncated", "bit-flipped", "empty"]), rng)
    ended = Run(folder, [*FIT, *VARIANTS["max_steps"], *GO_ON]).wait()
    if ended.status != 0 or f"{last.relative_to(folder)}'" not in ended.errors or "previous.ckpt" not in ended.errors:
        raise Lost(f"it ended with {ended.status}: {ended.last_line}")
    if difference := result_of(folder).difference(uninterrupted("max_steps")[0]):
        raise Lost(difference)
    return "the one before was used"


@fault("all checkpoints damaged", 3)
def _all_damaged(folder: Path, rng: random.Random) -> str:
    checkpoints = begun(folder)
    for name in ("last.ckpt", "previous.ckpt"):
        damage(checkpoints / name, rng.choice(["truncated", "bit-flipped", "empty"]), rng)
    return refused(Run(folder, [*FIT, *VARIANTS["max_steps"], *GO_ON]).wait(), "last.ckpt", "previous.ckpt")


def _goes_on_after_a_failed_save(folder: Path, fail: Callable[[list[str], int], Ended]) -> str:
    checkpoints = begun(folder)
    before = (checkpoints / "last.ckpt").read_bytes()
    words = [*FIT, *VARIANTS["max_steps"], *GO_ON]
    refused(fail(words, len(before)), "can't write the checkpoint")
    if [path.name for path in folder.rglob("*.tmp")] or (checkpoints / "last.ckpt").read_bytes() != before:
        raise Lost("the checkpoint from before is not what it was")
    if Run(folder, words).wait().status != 0 or (lost := result_of(folder).difference(uninterrupted("max_steps")[0])):
        raise Lost(f"it does not go on: {lost}")
    return "refused, then gone on"


@fault("file too large in a save", 2)
def _file_too_large(folder: Path, rng: random.Random) -> str:
    return _goes_on_after_a_failed_save(
        folder, lambda words, size: Run(folder, words, largest_file=rng.randrange(size // 2, size - 1)).wait()
    )


@fault("disk full in a save", 2)
def _disk_full(folder: Path, rng: random.Random) -> str:
    def fail(words: list[str], size: int) -> Ended:
        filler, before = folder / "filler", len(list(folder.rglob("events.*")))
        run = Run(folder, words)
        while len(list(folder.rglob("events.*"))) == before and run.process.is_alive():
            time.sleep(0.01)  # at its start it would see that the disk is full
        os.kill(run.process.pid or 0, signal.SIGSTOP)
        disk = os.statvfs(folder)
        filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - int(size * rng.uniform(0.5, 0.8))))
        os.kill(run.process.pid or 0, signal.SIGCONT)
        ended = run.wait()
        filler.unlink()
        return ended

    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:  # only root may
        return _file_too_large(folder, rng)
    try:
        return _goes_on_after_a_failed_save(folder, fail)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


# What is no longer the same


@fault("corpus changed", 2)
def _corpus_changed(folder: Path, rng: random.Random) -> str:
    begun(folder)
    content = list(TEXT)
    content[rng.randrange(len(content))] = "X"
    (folder / "corpus.txt").write_text("".join(content))
    return refused(Run(folder, [*FIT, *VARIANTS["max_steps"], *GO_ON]).wait(), "corpus (SHA-256", "allow_changed_data")


@fault("two runs in one folder", 2)
def _two_runs(folder: Path, rng: random.Random) -> str:
    del rng
    prepare(folder)
    first = Run(folder, [*FIT, "--trainer.max_steps=1000000"])
    try:
        while not list(folder.rglob("last.ckpt")):
            time.sleep(0.05)
        second = folder / "second"  # of the log alone
        second.mkdir()
        words = [word.replace("corpus.txt", "../corpus.txt") for word in FIT]
        logger = f"--trainer.logger.init_args.save_dir={folder / 'runs'}"
        return refused(Run(second, [*words, logger, "--ckpt_path=last"]).wait(), "has not ended")
    finally:
        first.kill()


@fault("log folder that can't be written to", 1)
def _unwritable(folder: Path, rng: random.Random) -> str:
    del rng
    prepare(folder)
    (folder / "runs").write_text("a file where a folder is to be")
    return refused(Run(folder, [*FIT, *VARIANTS["max_steps"]]).wait(), "not writable")


# The table


def measure(fault: Fault, tries: int, seed: int, folder: Path) -> list[str]:
    """Try a fault so many times; gives what was lost."""
    lost = []
    for number in range(tries):
        where = folder / f"{number}"
        try:
            fault.trial(where, random.Random(f"{seed} {fault.name} {number}"))
        except Lost as error:
            lost.append(f"try {number}: {error}")
        except Exception:
            lost.append(f"try {number}: {traceback.format_exc()}")
        finally:
            shutil.rmtree(where, ignore_errors=True)
    return lost


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("faults", nargs="*", help="parts of names; default: all")
    parser.add_argument("--tiny", action="store_true", help="one try of each")
    parser.add_argument("--times", type=int, default=1, help="so many times as many tries")
    parser.add_argument("--seed", type=int, default=123)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    arguments = parser.parse_args()
    importlib.import_module("bench._faults_from_outside")
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every run that went on
    if not arguments.json:
        print("| fault | tries | survived | lost | seconds |\n|---|---|---|---|---|")
    rows: list[dict[str, Any]] = []
    for chosen in FAULTS.values():
        if arguments.faults and not any(part in chosen.name for part in arguments.faults):
            continue
        tries = 1 if arguments.tiny else chosen.tries * arguments.times
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            lost = measure(chosen, tries, arguments.seed, Path(folder))
        row = {"fault": chosen.name, "tries": tries, "lost": lost, "seconds": time.perf_counter() - start}
        rows.append(row)
        if not arguments.json:
            cells = [chosen.name, tries, tries - len(lost), len(lost), f"{row['seconds']:.0f}"]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
    if arguments.json:
        print(json.dumps({"settings": vars(arguments), "faults": rows}, indent=1))
    if everything := [f"{row['fault']}, {text}" for row in rows for text in row["lost"]]:
        raise SystemExit("\n".join(everything))


if __name__ == "__main__":
    from bench import _bad_input, faults  # which adds its faults to that module, not to this copy of it

    assert _bad_input
    faults.main()
