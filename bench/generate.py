"""Tokens a second against `transformers`: `python -m bench.generate`, greedy, same weights, same threads.

Each row of the table interleaves the ways in one process, several times: `transformers.generate` as it comes and with
its prompt lookup (`prompt_lookup_num_tokens=3`), ours plain (`fast: never`, no lookahead), compiled, and compiled with
lookahead, which is how it comes. Times are medians; the first generation of each way, which warms up and compiles, is
not among them, and what it cost more is the preparation.

What lookahead gains depends on how much a text repeats itself. Greedy text does, that of random weights too; with
`--ckpt` a trained model speaks, and `--temperature` makes it draw.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import Tensor

import llm
from llm import GPT, GPTConfig, SamplingConfig, generate_batch
from llm.data.opening import open_corpus
from llm.pretrained.twin import hugging_face_twin

Texts = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.generate", description=__doc__)
    parser.add_argument("--size", default="124m", help="GPT-2's size: 124m, 355m, 774m or 1558m (%(default)s)")
    parser.add_argument("--ckpt", help="a trained model in its place, of GPT-2's architecture")
    parser.add_argument("--corpus", default="story", help="with --ckpt, where prompts are taken from (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the choice; 0 is greedy (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a model and lengths that only show that this runs")
    parser.add_argument("--tokens", type=int, default=200, help="new tokens in each row (%(default)s)")
    parser.add_argument("--prompt_tokens", type=int, default=32, help="tokens of each prompt (%(default)s)")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 2, 4, 8], help="rows (%(default)s)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], help="of the weights (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="timed generations of each way (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for all (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.tokens, arguments.prompt_tokens, arguments.repeats = 8, 4, 1
        arguments.batch_sizes, arguments.precisions = [1, 2], ["float32"]
    torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    torch.manual_seed(0)
    if arguments.ckpt:
        model, source = trained(arguments)
    else:
        config = GPTConfig.gpt2(arguments.size, dropout=0.0)
        if arguments.tiny:
            config = GPTConfig(vocab_size=97, context_length=64, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
        model = GPT(config).eval()
        source = torch.randint(config.vocab_size, (100_000,))
    if (total := arguments.prompt_tokens + arguments.tokens) > model.config.context_length:
        raise SystemExit(
            f"{total} tokens do not fit into a context of {model.config.context_length}: transformers fails"
        )
    twin = hugging_face_twin(model)

    if not arguments.json:
        name = arguments.ckpt or f"GPT-2 {'tiny' if arguments.tiny else arguments.size} with random weights"
        print(
            f"{name}, {model.n_parameters / 1e6:.0f} million parameters, temperature {arguments.temperature:g}, "
            f"{arguments.tokens} tokens after {arguments.prompt_tokens}, {arguments.threads} threads, "
            f"torch {torch.__version__}, transformers {transformers.__version__}; tokens/s over all rows, medians of "
            f"{arguments.repeats}; in brackets how often transformers'"
        )
        print(
            f"{'weights':>8} {'rows':>4} " + " ".join(f"{name:>21}" for name in WAYS) + f" {'prepare':>8} {'same':>5}"
        )
    rows = []
    for precision in arguments.precisions:
        model.to(getattr(torch, precision))
        twin.to(getattr(torch, precision))
        for n_rows in arguments.batch_sizes:
            row = {"precision": precision, **measure(model, twin, source, n_rows, arguments)}
            rows.append(row)
            if not arguments.json:
                cells = (
                    f"{row['rates'][way]:.1f} ({row['ratios'][way]:.2f})" if way in row["rates"] else "" for way in WAYS
                )
                print(
                    f"{precision:>8} {n_rows:>4} " + " ".join(f"{cell:>21}" for cell in cells),
                    f"{row['preparation_seconds']:>6.1f} s {row['same_tokens']:>5.0%}",
                    flush=True,
                )
    if arguments.json:
        print(
            json.dumps(
                {"settings": vars(arguments), "unit": "tokens/s, ratios to transformers", "rows": rows}, indent=1
            )
        )


WAYS = ("transformers", "transformers, lookup", "plain", "compiled", "compiled, lookahead")


def trained(arguments: argparse.Namespace) -> tuple[GPT, Tensor]:
    """The model of a checkpoint and a text in its tokens."""
    loaded = llm.load(arguments.ckpt)
    if loaded.tokenizer is None:
        raise SystemExit("the checkpoint has no tokenizer")
    with tempfile.TemporaryDirectory() as cache:
        tokens = open_corpus(arguments.corpus, loaded.tokenizer, cache).tokens()
    return loaded.model.eval(), torch.from_numpy(tokens.astype("int64"))


def measure(model: GPT, twin: Any, source: Tensor, n_rows: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Rates of the ways for one number of rows, and the medians of the ratios within a repeat."""
    torch.compiler.reset()
    T = arguments.prompt_tokens
    starts = torch.randint(len(source) - T, (n_rows, 1))
    prompts = source[starts + torch.arange(T)]  # (B, T)

    def ours(fast: Any, lookahead: int) -> Callable[[], Texts]:
        sampling = SamplingConfig(arguments.tokens, arguments.temperature, top_k=None, fast=fast, lookahead=lookahead)
        return lambda: [samples[0] for samples in generate_batch(model, list(prompts), sampling)]

    def theirs(**settings: Any) -> Callable[[], Texts]:
        settings |= {"eos_token_id": None, "pad_token_id": 0, "max_new_tokens": arguments.tokens}
        settings |= {"temperature": arguments.temperature, "top_k": 0} if arguments.temperature else {}

        def way() -> Texts:
            with torch.no_grad():
                texts = twin.generate(
                    prompts, attention_mask=torch.ones_like(prompts), do_sample=arguments.temperature > 0, **settings
                )
            return texts[:, T:].tolist()

        return way

    ways = dict(
        zip(
            WAYS,
            (
                theirs(),
                theirs(prompt_lookup_num_tokens=3),
                ours("never", 0),
                ours("always", 0),
                ours("always", SamplingConfig().lookahead),
            ),
            strict=True,
        )
    )
    if n_rows > 1:  # neither they nor we look up several texts at once
        del ways["transformers, lookup"], ways["compiled, lookahead"]
    first = {name: timed(way) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(arguments.repeats):
        for name, way in ways.items():
            seconds[name].append(timed(way)[0])
    n_tokens = n_rows * arguments.tokens
    last = list(ways)[-1]
    same = [ours == theirs for ours, theirs in zip(first[last][1], first["transformers"][1], strict=True)]
    return {
        "rows": n_rows,
        "rates": {name: n_tokens / statistics.median(times) for name, times in seconds.items()},
        "ratios": {
            name: statistics.median(theirs / ours for theirs, ours in zip(seconds["transformers"], times, strict=True))
            for name, times in seconds.items()
        },
        "preparation_seconds": max(0.0, first[last][0] - statistics.median(seconds[last]))
        + (max(0.0, first["compiled"][0] - statistics.median(seconds["compiled"])) if last != "compiled" else 0.0),
        "same_tokens": sum(same) / len(same),
    }


def timed(way: Callable[[], Texts]) -> tuple[float, Texts]:
    start = time.perf_counter()
    texts = way()
    return time.perf_counter() - start, texts


if __name__ == "__main__":
    main()
