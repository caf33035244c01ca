"""Generated tokens a second: ours against transformers, litgpt and the book's function.

All with the same weights and threads. The ways take turns, several times: `transformers.generate` as it comes and with
its prompt lookup (`prompt_lookup_num_tokens=3`); ours plain (`compile: never`, no prompt lookup), compiled, and
compiled with prompt lookup, which is how it comes; for one row also `generate_text_simple` of the book LLMs from
scratch, which reads the text again for each token, and litgpt's `generate`, which takes one row only, in a process of
its own; its positions are rotary, so that its weights are others of the same shapes. Times are medians; the first
generation of each way, which warms up and compiles, is not among them, and what it cost more is the preparation.

With `--shape` the model is a Llama, `--shape smollm2-135m` SmolLM2's: against `transformers` alone, in fewer and
shorter generations, since 135 million weights are read for each token.

What prompt lookup gains depends on how much a text repeats itself. Greedy text does, that of random weights too; with
`--ckpt` a trained model speaks, and `--temperature` makes it draw.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
import yaml
from torch import Tensor

from bench import _rivals
from bench._turns import Sleeper
from llm import GPT, GPTConfig, SamplingConfig, generate_batch
from llm.data.tokens.opening import open_corpus
from llm.pretrained import book, load_of_task
from llm.pretrained.twin import hugging_face_twin

REPOSITORY = Path(__file__).parents[1]
Texts = list[list[int]]


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.generate", description=__doc__)
    parser.add_argument("--size", default="124m", help="GPT-2's size: 124m, 355m, 774m or 1558m (%(default)s)")
    parser.add_argument("--shape", help="a Llama of configs/llama in its place, such as smollm2-135m")
    parser.add_argument("--ckpt", help="a trained model in its place, of GPT-2's architecture")
    parser.add_argument("--corpus", default="story", help="with --ckpt, where prompts are taken from (%(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the choice; 0 is greedy (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="a model and lengths that only show that this runs")
    parser.add_argument("--tokens", type=int, help="new tokens in each row (200; with --shape 64)")
    parser.add_argument("--prompt_tokens", type=int, default=32, help="tokens of each prompt (%(default)s)")
    parser.add_argument("--batch_sizes", type=int, nargs="+", help="rows (1 2 4 8; with --shape 1 4)")
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"], help="of the weights (%(default)s)")
    parser.add_argument("--repeats", type=int, help="timed generations of each way (5; with --shape 3)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for all (%(default)s)")
    _rivals.add_litgpt_python(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")
    arguments = parser.parse_args()
    arguments.tokens = arguments.tokens or (64 if arguments.shape else 200)
    arguments.batch_sizes = arguments.batch_sizes or ([1, 4] if arguments.shape else [1, 2, 4, 8])
    arguments.repeats = arguments.repeats or (3 if arguments.shape else 5)
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
        config = llama(arguments.shape) if arguments.shape else GPTConfig.gpt2(arguments.size, dropout=0.0)
        if arguments.tiny and arguments.shape:
            config = replace(config, vocab_size=97, n_layer=2, n_head=4, n_kv_head=2, n_embd=32, mlp_hidden=40)
        elif arguments.tiny:
            config = GPTConfig(vocab_size=97, context_length=64, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
        model = GPT(config).eval()
        source = torch.randint(config.vocab_size, (100_000,))
    if (total := arguments.prompt_tokens + arguments.tokens) > model.config.context_length:
        raise SystemExit(
            f"{total} tokens do not fit into a context of {model.config.context_length}: transformers fails"
        )
    twin = hugging_face_twin(model)

    if not arguments.litgpt_python and not arguments.shape:
        print("litgpt is skipped: it needs --litgpt_python, see bench/README.md", file=sys.stderr)
    if not find_spec("llms_from_scratch") and not arguments.shape:
        print("the book is skipped: it needs pip install --no-deps llms-from-scratch", file=sys.stderr)

    if not arguments.json:
        size = arguments.shape or f"GPT-2 {arguments.size}"
        name = arguments.ckpt or f"{size}{', made tiny,' if arguments.tiny else ''} with random weights"
        print(
            f"{name}, {model.n_parameters / 1e6:.0f} million parameters, temperature {arguments.temperature:g}, "
            f"{arguments.tokens} tokens after {arguments.prompt_tokens}, {arguments.threads} threads, "
            f"torch {torch.__version__}, transformers {transformers.__version__}; tokens/s over all rows, medians of "
            f"{arguments.repeats}"
        )
        print("| weights | rows | way | tokens/s | against transformers | preparation (s) | same tokens |")
        print("|---|---|---|---|---|---|---|")
    rows = []
    for precision in arguments.precisions:
        model.to(getattr(torch, precision))
        twin.to(getattr(torch, precision))
        for n_rows in arguments.batch_sizes:
            row = {"precision": precision, **measure(model, twin, source, n_rows, precision, arguments)}
            rows.append(row)
            if not arguments.json:
                print_rows(row)
    if arguments.json:
        print(
            json.dumps(
                {"settings": vars(arguments), "unit": "tokens/s, ratios to transformers", "rows": rows}, indent=1
            )
        )


def print_rows(row: dict[str, Any]) -> None:
    for way, rate in row["rates"].items():
        preparation = f"{row['preparation_seconds'][way]:.1f}" if way.startswith("compiled") else ""
        same = f"{row['same_tokens'][way]:.0%}" if way in row["same_tokens"] else ""
        cells = f"{row['precision']} | {row['rows']} | {way} | {rate:.1f} | {row['ratios'][way]:.2f}"
        print(f"| {cells} | {preparation} | {same} |", flush=True)


def llama(shape: str) -> GPTConfig:
    """The architecture of a configuration in `configs/llama`, with SmolLM2's vocabulary and context."""
    settings = yaml.safe_load((REPOSITORY / "configs" / "llama" / f"{shape}.yaml").read_text(encoding="utf-8"))
    return GPTConfig(vocab_size=49152, context_length=8192, **settings["model"]["gpt"])


def trained(arguments: argparse.Namespace) -> tuple[GPT, Tensor]:
    """The model of a checkpoint and a text in its tokens."""
    loaded = load_of_task(arguments.ckpt, "language", GPT)
    with tempfile.TemporaryDirectory() as cache:
        ids = open_corpus(arguments.corpus, loaded.tokenizer, cache).tokens().astype("int64")
    return loaded.model.eval(), torch.from_numpy(ids)


def measure(
    model: GPT, twin: Any, source: Tensor, n_rows: int, precision: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Rates of the ways for one number of rows, and the medians of the ratios within a repeat."""
    torch.compiler.reset()
    T = arguments.prompt_tokens
    starts = torch.randint(len(source) - T, (n_rows, 1))
    prompts = source[starts + torch.arange(T)]  # (B, T)

    def ours(compile: Any, prompt_lookup: int) -> Callable[[], Texts]:
        sampling = SamplingConfig(
            arguments.tokens, arguments.temperature, top_k=None, compile=compile, prompt_lookup=prompt_lookup
        )
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

    ways = {"transformers": theirs(), "plain": ours("never", 0), "compiled": ours("always", 0)}
    if n_rows == 1:  # neither they nor we look up several texts at once
        ways["transformers, lookup"] = theirs(prompt_lookup_num_tokens=3)
        ways["compiled, prompt lookup"] = ours("always", SamplingConfig().prompt_lookup)
    if n_rows == 1 and not arguments.temperature and not arguments.shape and find_spec("llms_from_scratch"):
        ways["book"] = book_texts(model, prompts, arguments.tokens)
    first = {name: timed(way) for name, way in ways.items()}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        others: dict[str, Sleeper] = {}
        if n_rows == 1 and arguments.litgpt_python and not arguments.shape:
            others["litgpt"] = litgpt_process(model, precision, arguments, Path(folder))
            stack.callback(others["litgpt"].end)
            seconds["litgpt"] = []
        for _ in range(arguments.repeats):
            for name, way in ways.items():
                seconds[name].append(timed(way)[0])
            for name, sleeper in others.items():
                seconds[name].append(sleeper.answer("go")["seconds"])
    n_tokens = n_rows * arguments.tokens
    return {
        "rows": n_rows,
        "rates": {name: n_tokens / statistics.median(times) for name, times in seconds.items()},
        "ratios": {
            name: statistics.median(theirs / ours for theirs, ours in zip(seconds["transformers"], times, strict=True))
            for name, times in seconds.items()
        },
        "preparation_seconds": {
            name: max(0.0, taken - statistics.median(seconds[name])) for name, (taken, _) in first.items()
        },
        "same_tokens": {
            name: sum(ours == theirs for ours, theirs in zip(texts, first["transformers"][1], strict=True)) / n_rows
            for name, (_, texts) in first.items()
        },
    }


def shape(model: GPT) -> dict[str, int]:
    config = model.config
    sizes = {"V": config.vocab_size, "T": config.context_length}
    return sizes | {"L": config.n_layer, "H": config.n_head, "C": config.n_embd}


def book_texts(model: GPT, prompts: torch.Tensor, tokens: int) -> Callable[[], Texts]:
    """The book's model with the weights of ours, writing."""
    from llms_from_scratch.ch04 import generate_text_simple

    theirs = _rivals.book_model(shape(model)).to(prompts.device, next(model.parameters()).dtype).eval()
    theirs.out_head.weight = theirs.tok_emb.weight
    theirs.load_state_dict(book.LAYOUT.to_theirs(model.state_dict(), model.config), strict=False)
    context = model.config.context_length
    return lambda: generate_text_simple(theirs, prompts, tokens, context)[:, prompts.shape[1] :].tolist()


def litgpt_process(model: GPT, precision: str, arguments: argparse.Namespace, folder: Path) -> Sleeper:
    """Has written one text, and waits."""
    lengths = {"prompt_tokens": arguments.prompt_tokens, "tokens": arguments.tokens, "threads": arguments.threads}
    settings = json.dumps({"size": shape(model), "precision": precision, **lengths})
    command = [arguments.litgpt_python, "-m", "bench._rivals", settings]
    sleeper = Sleeper(command, folder / "errors.txt", dict(os.environ))
    sleeper.answer()
    return sleeper


def timed(way: Callable[[], Texts]) -> tuple[float, Texts]:
    start = time.perf_counter()
    texts = way()
    return time.perf_counter() - start, texts


if __name__ == "__main__":
    main()
