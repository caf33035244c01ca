"""Everything that needs a GPU, in one go: `python -m bench.gpu --seconds 330 --output gpu`.

The parts, most important first: {parts}

Results are in `gpu.json` in the folder `--output`, written anew after each measurement, and in lines on the way. A part
that fails, hangs or leaves the GPU unusable does not stop the others. A part that would not fit into what is left of
`--seconds` is skipped. The exit status is 1 if anything failed.

The parts run one after the other in one process, which is started again where a part has spoilt it. The step counts
the largest of `--batches` that fits; MFU is that of `bench.step`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Part:
    """One part.

    Args:
        what: it measures, in a line.
        seconds: that it takes on an H100; three times that, and it is stopped.
        room: the module of `bench` that has it.
        function: its name there.
    """

    what: str
    seconds: float
    room: str
    function: str


PARTS = {
    "step": Part("a step of GPT-2 124M: plain compiled loop, ours, the head's loss, kernels", 130, "step", "measure"),
    "generate": Part("generation with CUDA graphs against transformers", 50, "models", "generation"),
    "exact": Part("the same bits when resumed and when inspected; NaN; SIGTERM", 20, "runs", "exactness"),
    "preflight": Part("the preflight's memory and time against what is found", 12, "models", "estimates"),
    "modern": Part("the modern preset against the plain loop, on --corpus", 75, "models", "modern"),
    "fsdp": Part("FSDP on one device, its checkpoint read on the CPU; Muon refused", 25, "runs", "fsdp"),
    "tests": Part("pytest -m gpu", 45, "runs", "tests"),
    "tf32": Part("float32 with and without TF32", 8, "models", "tf32"),
}
STARTING = 12.0
"""Seconds until a process has imported everything and found the GPU."""
LEAST_LIMIT = 60.0
NO_DEVICE = 3
"""The exit status of a worker that finds none."""
WORKER = "--worker"


def main() -> int:
    listed = "".join(f"\n  {name:<10} {part.what}" for name, part in PARTS.items())
    raw = argparse.RawDescriptionHelpFormatter
    description = (__doc__ or "").replace("{parts}", listed)
    parser = argparse.ArgumentParser("python -m bench.gpu", description=description, formatter_class=raw)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="(all)")
    parser.add_argument("--seconds", type=float, help="that all may take (no limit)")
    parser.add_argument("--output", type=Path, default=Path("gpu"), help="folder for gpu.json (%(default)s)")
    parser.add_argument("--corpus", help="text that the modern preset learns (the story in data/)")
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 32, 16], help="of the step (%(default)s)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda", help="(%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="sizes that only show that this runs, nothing compiled")
    parser.add_argument("--json", action="store_true", help="print the JSON document at the end, too")
    parser.add_argument(WORKER, type=float, help=argparse.SUPPRESS)  # the deadline
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.batches = [2]
    if arguments.worker is not None:
        work(arguments)
        return 0
    results = supervise(arguments)
    if arguments.json:
        print(json.dumps(results, indent=1))
    return any(part["status"] == "failed" for part in results["parts"].values())


# The process that watches: it imports nothing that could hang


def supervise(arguments: argparse.Namespace) -> dict[str, Any]:
    """Start a worker, and another where one has ended before its time, until each part has a result."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the worker must not outlive this
    arguments.output.mkdir(parents=True, exist_ok=True)
    path = arguments.output / "gpu.json"
    path.unlink(missing_ok=True)
    deadline = time.time() + (arguments.seconds or float("inf"))
    while left := [name for name in arguments.parts if name not in read(path)["parts"]]:
        if time.time() + STARTING > deadline:
            results = read(path)
            results["parts"] |= {name: {"status": "skipped", "error": ["the time is over"]} for name in left}
            write(path, results)
            break
        settings = ["--parts", *left, "--output", str(arguments.output), "--device", arguments.device]
        settings += ["--batches", *map(str, arguments.batches), *(["--tiny"] if arguments.tiny else [])]
        settings += ["--corpus", arguments.corpus] if arguments.corpus else []
        command = [sys.executable, "-m", "bench.gpu", WORKER, str(deadline), *settings]
        worker = subprocess.Popen(command, env=environment(arguments), start_new_session=True)
        try:
            reason = watch(worker, path, deadline)
        finally:
            end(worker)
        if worker.returncode == NO_DEVICE:
            sys.exit(f"error: --device {arguments.device}: torch finds no CUDA device")
        settle(path, left[0], reason)
    return read(path)


def environment(arguments: argparse.Namespace) -> dict[str, str]:
    variables = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"} | dict(os.environ)  # Hopper's own size, and deterministic
    if arguments.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    if arguments.tiny:
        variables.setdefault("TORCHDYNAMO_DISABLE", "1")
    return variables


def watch(worker: subprocess.Popen[bytes], path: Path, deadline: float) -> str:
    """Wait for the end of a worker or of its time; gives why it is over."""
    began, running = time.time(), None
    while worker.poll() is None:
        now = next((n for n, part in read(path)["parts"].items() if part["status"] == "running"), None)
        if now != running:
            running, began = now, time.time()
        limit = max(LEAST_LIMIT, 3 * PARTS[running].seconds if running else 0.0)
        if time.time() > deadline:
            return "the time is over"
        if time.time() > began + limit:
            return f"stopped after {limit:.0f} s"
        time.sleep(0.1)
    return f"the process ended with status {worker.returncode}"


def end(worker: subprocess.Popen[bytes]) -> None:
    """With all that it started."""
    if worker.poll() is None:
        os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()


def settle(path: Path, first: str, reason: str) -> None:
    """A part that still runs has failed; so has the first one, if the worker did not get to it."""
    results = read(path)
    if first not in results["parts"]:
        results["parts"][first] = {"status": "running", "began": time.time(), "results": {}}
    for part in results["parts"].values():
        if part["status"] == "running":
            part.update(status="failed", error=[reason], seconds=time.time() - part["began"])
            print(f"  failed: {reason}", flush=True)
    write(path, results)


def read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {"parts": {}}


def write(path: Path, results: dict[str, Any]) -> None:
    """Written atomically: the other process reads it."""
    beside = path.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1, default=str), encoding="utf-8")
    beside.replace(path)


# The process that works


def work(arguments: argparse.Namespace) -> None:
    """Do the parts that are left, until all are done or the device no longer answers."""
    from importlib import import_module

    import torch

    from bench import _gpu

    path, deadline = arguments.output / "gpu.json", arguments.worker
    results = read(path)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit(NO_DEVICE)
    if "device" not in results:
        name = torch.cuda.get_device_name() if arguments.device == "cuda" else "cpu"
        versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": sys.version.split()[0]}
        settings = {name: str(value) for name, value in vars(arguments).items()}
        results |= {"device": name, **versions, "cores": os.cpu_count(), "settings": settings}
        _gpu.say(f"{name}, torch {torch.__version__}")
    for name in arguments.parts:
        part = results["parts"][name] = {"status": "running", "began": time.time(), "results": {}}
        lasts = PARTS[name].seconds
        if not arguments.tiny and deadline - time.time() < lasts:
            part.update(status="skipped", error=[f"takes {lasts:.0f} s, {deadline - time.time():.0f} s are left"])
            _gpu.say(f"{name}: skipped, {part['error'][0]}")  # type: ignore[index]
            write(path, results)
            continue
        write(path, results)
        _gpu.say(f"{name}: {PARTS[name].what}")
        with tempfile.TemporaryDirectory() as folder:
            lab = _gpu.Lab(
                arguments.device,
                arguments.tiny,
                arguments.corpus,
                sorted(arguments.batches, reverse=True),
                Path(folder),
                deadline,
                lambda: write(path, results),
                part["results"],  # type: ignore[arg-type]
            )
            try:
                getattr(import_module(f"bench._gpu_{PARTS[name].room}"), PARTS[name].function)(lab)
                error = [f"failed: {', '.join(lab.failed)}"] if lab.failed else []
            except (Exception, SystemExit) as failure:
                error = _gpu.last_lines(failure)
            part.update(status="failed" if error else "done", seconds=time.time() - part["began"])  # type: ignore[operator]
            if error:
                part["error"] = error
                _gpu.say(f"  failed: {error[-1]}")
            write(path, results)
            lab.free()
            lab.finish()  # raises where the device is lost: the next process goes on


if __name__ == "__main__":
    sys.exit(main())
