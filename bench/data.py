"""How fast text becomes token ids, and token ids become batches: ours against tiktoken and a list of tensors.

Each figure stands beside what a user would otherwise pick: tiktoken's own batch function, and a data set that keeps
every window as a tensor. The sides of a comparison take turns; a ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from llm.data.reading.sources import read_chunks
from llm.data.tokens.store import DESCRIPTION, ShardHeader, TokenStore
from llm.data.tokens.tokenize import Plan, tokenize
from llm.tokenizers import BPETokenizer
from llm.tokenizers.bpe import load_encoding

STORY = Path(__file__).parents[1] / "data" / "story.txt"
CONTEXT, BATCH = 256, 4
MODEL_TOKENS_PER_SECOND = CONTEXT * BATCH / 0.505
"""What a GPT of 30M parameters takes in on two CPU cores: 4 x 256 tokens in 0.505 s (`python -m bench.step`)."""


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.data", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="small sizes: does it run?")
    parser.add_argument("--json", action="store_true", help="JSON instead of tables")
    parser.add_argument("--text", type=Path, default=STORY, help="what is repeated to 60 MB (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="of every comparison (%(default)s)")
    options = parser.parse_args()
    rounds = 1 if options.tiny else options.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = {
            "tokenize": bench_tokenize(options.text, folder, 200_000 if options.tiny else 60_000_000, rounds),
            "windows": bench_windows(folder, 5_000 if options.tiny else 418_000, 20 if options.tiny else 2000),
            "open": bench_open(folder, 10**6 if options.tiny else 10**10),
        }
    print(json.dumps(results, indent=1) if options.json else tables(results))


# Text to token ids


def bench_tokenize(text: Path, folder: Path, n_bytes: int, rounds: int) -> list[dict[str, Any]]:
    """File to store, against tiktoken encoding the same pieces, already in memory, to lists."""
    content = text.read_bytes()
    path = folder / "corpus.txt"
    path.write_bytes(content * (n_bytes // len(content) + 1))
    tokenizer = BPETokenizer()
    encoding = load_encoding(tokenizer.encoding)
    pieces = [text for chunk in read_chunks([path], tokenizer.cuts) for text in chunk.texts]
    plan = Plan([path], tokenizer, threads=2)

    def ours(number: int) -> None:
        tokenize(plan, folder / f"store{number}")

    def theirs(number: int) -> None:
        del number
        encoding.encode_ordinary_batch(pieces, num_threads=2)

    found: dict[str, list[tuple[float, float]]] = {"tiktoken": [], "ours": []}
    for number in range(rounds):
        for name, function in (("tiktoken", theirs), ("ours", ours))[:: 1 if number % 2 else -1]:
            found[name].append(timed(function, number))
    megabytes = path.stat().st_size / 1e6
    return [
        {
            "what": label,
            "MB/s": megabytes / statistics.median(wall for wall, _ in found[name]),
            "ratio of rates": median_ratio(found["tiktoken"], found[name], 0),
            "CPU seconds for 100 MB": statistics.median(cpu for _, cpu in found[name]) / megabytes * 100,
            "ratio per CPU second": median_ratio(found["tiktoken"], found[name], 1),
        }
        for name, label in (
            ("tiktoken", "tiktoken.encode_ordinary_batch(num_threads=2), memory to lists"),
            ("ours", "llm tokenize, two threads, file to store"),
        )
    ]


def timed(function: Callable[[int], None], number: int) -> tuple[float, float]:
    """Wall-clock and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(number)
    return time.perf_counter() - wall, time.process_time() - cpu


def median_ratio(base: list[tuple[float, float]], other: list[tuple[float, float]], part: int) -> float:
    return statistics.median(first[part] / second[part] for first, second in zip(base, other, strict=True))


# Token ids to batches


def bench_windows(folder: Path, n_tokens: int, batches: int) -> list[dict[str, Any]]:
    """Opening a corpus with stride 1 and taking shuffled batches; each side in a process of its own."""
    ids = np.random.default_rng(1).integers(0, 50257, n_tokens).astype("<u2")
    for name, n_shards in (("one", 1), ("three", 3)):
        write_store(folder / name, n_tokens, n_shards, ids)
    found = [
        alone(take_from_list, folder / "one", batches),
        alone(take_from_store, folder / "one", batches),
        alone(take_from_store, folder / "three", batches),
    ]
    names = ("a list of tensors (the notes)", "memory-mapped, one shard", "memory-mapped, three shards")
    return [
        {
            "what": f"{name}, {n_tokens:,} tokens",
            "open (s)": result["open"],
            "memory (MB)": result["memory"],
            "tokens/s": result["rate"],
            "ratio of rates": result["rate"] / found[0]["rate"],
            "times what a 30M model takes in": result["rate"] / MODEL_TOKENS_PER_SECOND,
        }
        for name, result in zip(names, found, strict=True)
    ]


def take_from_store(path: Path, batches: int) -> dict[str, float]:
    from llm.data import BatchLoader, BatchOrder, SlidingWindows

    def build() -> Any:
        windows = SlidingWindows(TokenStore.open(path).tokens(), CONTEXT, 1)
        return BatchLoader(windows, BatchOrder(len(windows), BATCH))

    return measure(build, batches)


def take_from_list(path: Path, batches: int) -> dict[str, float]:
    """The notes' data set: every window a tensor in a list."""
    import torch
    from torch.utils.data import DataLoader, Dataset

    class Windows(Dataset[Any]):
        def __init__(self, ids: list[int]) -> None:
            starts = range(0, len(ids) - CONTEXT)
            self.inputs = [torch.tensor(ids[start : start + CONTEXT]) for start in starts]
            self.targets = [torch.tensor(ids[start + 1 : start + CONTEXT + 1]) for start in starts]

        def __len__(self) -> int:
            return len(self.inputs)

        def __getitem__(self, index: int) -> Any:
            return self.inputs[index], self.targets[index]

    ids = TokenStore.open(path).tokens().tolist()
    return measure(lambda: DataLoader(Windows(ids), BATCH, shuffle=True, drop_last=True), batches)


def measure(build: Callable[[], Any], batches: int) -> dict[str, float]:
    """Seconds and MB to the first batch, then tokens a second."""
    import torch

    torch.set_num_threads(1)
    before, start = resident(), time.perf_counter()
    loader = build()
    opened, memory = time.perf_counter() - start, resident() - before
    iterator = iter(loader)
    next(iterator)
    start, taken = time.perf_counter(), 0
    for _ in itertools.islice(iterator, batches):
        taken += 1
    rate = taken * CONTEXT * BATCH / (time.perf_counter() - start)
    return {"open": opened, "memory": memory, "rate": rate}


# A large store


def bench_open(folder: Path, n_tokens: int) -> list[dict[str, Any]]:
    """Opening a store of sparse files, and batches from all over it, shuffled."""
    write_store(folder / "large", n_tokens, 100, None)
    found = [(alone(open_large, folder / "large", 100, read_ahead), read_ahead) for read_ahead in (True, False)]
    return [
        {
            "what": f"{n_tokens:,} tokens in 100 shards, {'read ahead' if read_ahead else 'as a shuffled run does'}",
            "open (s)": result["open"],
            "resident (MB)": result["resident"],
            "of it torch and others (MB)": result["before"],
            "tokens/s": result["rate"],
            "times what a 30M model takes in": result["rate"] / MODEL_TOKENS_PER_SECOND,
        }
        for result, read_ahead in found
    ]


def open_large(path: Path, batches: int, read_ahead: bool) -> dict[str, float]:
    from llm.data import BatchLoader, BatchOrder, SlidingWindows

    before, start = resident(), time.perf_counter()
    tokens = TokenStore.open(path).tokens(read_ahead=read_ahead)
    opened = time.perf_counter() - start

    def build() -> Any:
        windows = SlidingWindows(tokens, CONTEXT, 10)
        return BatchLoader(windows, BatchOrder(len(windows), BATCH))

    rate = measure(build, batches)["rate"]
    return {"open": opened, "before": before, "resident": resident(), "rate": rate}


def write_store(path: Path, n_tokens: int, n_shards: int, ids: np.ndarray[Any, Any] | None) -> None:
    """A store of these ids, or of zeros that take no room on the disk."""
    path.mkdir()
    tokenizer = BPETokenizer()
    lengths = np.diff(np.linspace(0, n_tokens, n_shards + 1).astype(int)).tolist()
    begin = 0
    for number, length in enumerate(lengths):
        header = ShardHeader("<u2", length, 1, n_tokens, tokenizer.fingerprint, "none", "", (1, 0)).pack()
        with (path / f"{number:05}.tokens").open("wb") as file:
            file.write(header)
            if ids is None:
                file.truncate(len(header) + 2 * length)
            else:
                file.write(ids[begin : begin + length].tobytes())
        begin += length
    shards = tuple((f"{number:05}.tokens", length) for number, length in enumerate(lengths))
    described = (n_tokens, 1, n_tokens, tokenizer.to_dict(), tokenizer.fingerprint, "none", shards)
    TokenStore(path, "<u2", *described).write()
    assert (path / DESCRIPTION).is_file()


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Run it in a fresh process, so that its memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def resident() -> float:
    """MB of memory that this process has now."""
    import torch  # noqa: F401  (its own memory is not what is measured)

    status = Path("/proc/self/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1e3


def tables(results: dict[str, list[dict[str, Any]]]) -> str:
    lines = []
    for name, rows in results.items():
        columns = list(rows[0])
        lines += ["", f"### {name}", "", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(shown(row[column]) for column in columns)} |" for row in rows]
    return "\n".join(lines[1:])


def shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
