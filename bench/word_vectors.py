"""Word vectors: ours against gensim's word2vec, on the same text with the same settings and threads.

Both get the same rows of words. How good vectors are is the rank correlation (Spearman's rho) of their cosines with
what people say of the similarity of pairs of words: WordSim-353 (Finkelstein et al. 2001), SimLex-999 (Hill et al.
2015), or any file with two words and a number in each line, separated by tabs; pairs with a word that is not in the
vocabulary are left out. `--analogies` adds the fraction of a file of analogies (Mikolov et al. 2013) that is solved:
the word nearest to b - a + c is d. Speed is in words of the text, rare and frequent ones included, per second of
processor time of training alone; the programs take turns, a seed at a time.

No rate is chosen by what is measured: `--choose` trains each program with each of `--rates` and `--gensim_rates` on the
first nine tenths of the text, and takes the rate with the lowest loss on the last tenth, whose contexts and noise words
are the same for all. gensim runs with its default rate, too.

With `--ckpt`, nothing is trained: tables of vectors are measured on the pairs whose words all of them have, and it is
counted how many of the ten nearest neighbours of frequent words two tables have in common. `--picture` draws the same
words in each table, on the two axes along which they differ most (principal components).
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from bench._trainer import QUIET
from llm import OptimConfig
from llm.config import WordVectorsConfig
from llm.data import WordVectorsDataModule
from llm.pretrained.vectors import NamedVectors, read_vectors
from llm.tasks import WordVectorsModule

OBJECTIVES = ("skip_gram", "cbow")
GENSIMS_RATE = 0.025
"""Its default."""


class Pairs(NamedTuple):
    """Pairs of words, and what people say of them.

    Args:
        name: of the file.
        words: two for each pair.
        similarity: (N).
    """

    name: str
    words: list[tuple[str, str]]
    similarity: npt.NDArray[np.float64]


class Trained(NamedTuple):
    """What training leaves.

    Args:
        seconds: of processor time that it took.
        vectors: of words.
        predicted: (V, C) the vectors of the same words as words predicted.
    """

    seconds: float
    vectors: NamedVectors
    predicted: Tensor


Train = Callable[[argparse.Namespace, WordVectorsDataModule, str, int, float], Trained]


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench.word_vectors", description=__doc__)
    add = parser.add_argument
    add("--corpus", nargs="+", default=["story"], help="text files and folders (%(default)s)")
    add("--pairs", nargs="*", default=[], metavar="FILE", help="two words and a number, with tabs between them")
    add("--ckpt", nargs="*", default=[], metavar="FILE", help="measure these vectors, and train none")
    add("--picture", type=Path, metavar="FILE", help="with --ckpt: a PNG of words in each of the tables")
    add("--words", nargs="*", default=[], help="those in the picture; default: the first 40 of four letters or more")
    add("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES), help="(%(default)s)")
    add("--epochs", type=int, default=5, help="(%(default)s)")
    add("--seeds", type=int, nargs="+", default=[1, 2, 3], help="(%(default)s)")
    add("--analogies", type=Path, metavar="FILE", help="four words a line, of which the last is to be found")
    add("--batch_size", type=int, default=128, help="rows in a batch of ours (%(default)s)")
    add("--choose", action="store_true", help="choose each rate by the loss on held-out text")
    add("--rates", type=float, nargs="+", default=[0.01, 0.02, 0.04], help="of ours; without --choose, the first")
    add("--gensim_rates", type=float, nargs="+", default=[0.025, 0.05, 0.1], help="as --rates (%(default)s)")
    add("--min_count", type=int, default=5, help="for both (%(default)s)")
    add("--threads", type=int, default=1, help="for both (%(default)s)")
    add("--tiny", action="store_true", help="a size that only shows that this runs")
    add("--json", action="store_true", help="print one JSON document instead of the table")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.epochs, arguments.seeds, arguments.batch_size, arguments.min_count = 1, [1], 4, 2
        arguments.rates, arguments.gensim_rates = [0.02, 0.01], [0.025, 0.05]
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(arguments.threads)
    pairs = [read_pairs(Path(path)) for path in arguments.pairs]
    rows = compare_tables(arguments.ckpt, pairs) if arguments.ckpt else compare_programs(arguments, pairs)
    if arguments.json:
        print(json.dumps({"rows": rows}))
        return
    if arguments.ckpt:
        for row in rows:
            show(row)
        if arguments.picture:
            draw(arguments.ckpt, arguments.words, arguments.picture)


def show(row: dict[str, Any]) -> None:
    """Print a row of the table."""
    cells = (f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items())
    print("  ".join(cells), flush=True)


def read_pairs(path: Path) -> Pairs:
    """The pairs of words of a file; lines that begin with # are comments."""
    lines = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    words = [(first.lower(), second.lower()) for first, second, *_ in lines]
    return Pairs(path.name, words, np.array([float(line[2]) for line in lines]))


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    """Spearman's rank correlation; equal values have the mean of their ranks."""
    ranks = []  # of each, (N)
    for values in (first, second):
        _, places, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[places])
    return float(np.atleast_2d(np.corrcoef(np.stack(ranks)))[0, 1])


def agreement(vectors: NamedVectors, pairs: Pairs, keep: Callable[[str], bool] = lambda _: True) -> tuple[float, int]:
    """Spearman's rho of the cosines of pairs with their similarity, and of how many pairs."""
    known = [
        (first, second, place)
        for place, words in enumerate(pairs.words)
        if all(map(keep, words)) and None not in (first := vectors.find(words[0]), second := vectors.find(words[1]))
    ]
    if len(known) < 2:
        return float("nan"), len(known)
    left, right, places = (torch.tensor(column) for column in zip(*known, strict=True))
    cosines = F.cosine_similarity(vectors.table[left], vectors.table[right])  # (N)
    return spearman(cosines.numpy(), pairs.similarity[places.numpy()]), len(known)


def analogies_solved(vectors: NamedVectors, path: Path) -> tuple[float, int]:
    """The fraction of analogies a : b = c : d whose d is nearest to b - a + c, and how many have all words known.

    As word2vec counts: the three words that are given are no answers.
    """
    lines = [line.lower().split() for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != ":"]
    ids = [[vectors.find(word) for word in line] for line in lines if len(line) == 4]
    known = torch.tensor([found for found in ids if None not in found], dtype=torch.int64).view(-1, 4)  # (N, 4)
    if not len(known):
        return float("nan"), 0
    unit = F.normalize(vectors.table, dim=-1)  # (V, C)
    hits = 0
    for given in known.split(256):
        cosines = (unit[given[:, 1]] - unit[given[:, 0]] + unit[given[:, 2]]) @ unit.mT  # (B, C) x (C, V) -> (B, V)
        cosines.scatter_(1, given[:, :3], -torch.inf)
        hits += int((cosines.argmax(1) == given[:, 3]).sum())
    return hits / len(known), len(known)


def compare_programs(arguments: argparse.Namespace, pairs: Sequence[Pairs]) -> list[dict[str, Any]]:
    """Train with both, a seed at a time; the mean over seeds of quality and speed."""
    programs = {"ours": (ours, arguments.rates)}
    if find_spec("gensim") is None:
        print("gensim is not installed: its rows are skipped (pip install gensim)")
    else:
        programs["gensim"] = (gensims, arguments.gensim_rates)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for objective in arguments.objectives:
            tries: list[tuple[str, Train, float]] = []
            for name, (train, rates) in programs.items():
                rate = rates[0]
                if arguments.choose:
                    losses = {rate: held_out_loss(train, arguments, folder, objective, rate) for rate in rates}
                    rate = min(losses, key=losses.__getitem__)
                    shown = ", ".join(f"{loss:.4f} at {each}" for each, loss in losses.items())
                    print(f"{objective}, {name}: held-out loss {shown}", file=sys.stderr, flush=True)
                tries.append((name, train, rate))
                if name == "gensim" and rate != GENSIMS_RATE:
                    tries.append((name, train, GENSIMS_RATE))
            found = measure(tries, arguments, folder, objective, pairs)
            rows += found
            if not arguments.json:
                for row in found:
                    show(row)
    return rows


def measure(
    tries: Sequence[tuple[str, Train, float]],
    arguments: argparse.Namespace,
    folder: str,
    objective: str,
    pairs: Sequence[Pairs],
) -> list[dict[str, Any]]:
    """A row for each program and its rate, trained on the whole text."""
    runs: list[list[tuple[float, NamedVectors]]] = [[] for _ in tries]
    for seed in arguments.seeds:
        data = data_of(arguments, folder, seed)
        n_words = len(data.train_tokens) * arguments.epochs
        for place, (_, train, rate) in enumerate(tries):
            trained = train(arguments, data, objective, seed, rate)
            runs[place].append((n_words / trained.seconds, trained.vectors))
    rows = []
    for (name, _, rate), found in zip(tries, runs, strict=True):
        speed = statistics.median(speed for speed, _ in found)
        row: dict[str, Any] = {"objective": objective, "program": name, "rate": rate, "words/s": round(speed)}
        for each in pairs:
            row[each.name] = statistics.mean(agreement(vectors, each)[0] for _, vectors in found)
        if arguments.analogies:
            row["analogies"] = statistics.mean(
                analogies_solved(vectors, arguments.analogies)[0] for _, vectors in found
            )
        rows.append(row)
    return rows


def data_of(
    arguments: argparse.Namespace, folder: str, seed: int, validation_fraction: float = 0.0
) -> WordVectorsDataModule:
    """The rows of words that both programs get."""
    data = WordVectorsDataModule(
        corpus=arguments.corpus,
        min_count=arguments.min_count,
        batch_size=arguments.batch_size,
        validation_fraction=validation_fraction,
        drop_last=False,
        seed=seed,
        cache_dir=folder,
    )
    data.prepare_data()
    return data


def ours(arguments: argparse.Namespace, data: WordVectorsDataModule, objective: str, seed: int, rate: float) -> Trained:
    """Train with this package."""
    torch.manual_seed(seed)
    config = WordVectorsConfig(data.vocab_size, objective=objective)  # type: ignore[arg-type]
    module = WordVectorsModule(config, OptimConfig(learning_rate=rate, warmup_steps=20, weight_decay=0.0, beta2=0.999))
    trainer = L.Trainer(
        max_epochs=arguments.epochs, limit_val_batches=0, num_sanity_val_steps=0, callbacks=[clock := Clock()], **QUIET
    )
    trainer.fit(module, data)
    words = module.words
    return Trained(clock.seconds, named(data, words.token.weight.detach()), words.predicted.weight.detach())


def named(data: WordVectorsDataModule, table: Tensor) -> NamedVectors:
    """The vectors of words, without those of special tokens, which come last."""
    n_words = len(data.tokenizer.to_dict()["vocabulary"])
    names = [data.tokenizer.token_bytes(token).decode() for token in range(n_words)]
    return NamedVectors(names, table[:n_words])


class Clock(L.Callback):
    """The processor time of training, without what comes before and after it."""

    seconds = 0.0

    def on_train_start(self, *_: Any) -> None:
        """Begin."""
        self._start = time.process_time()

    def on_train_end(self, *_: Any) -> None:
        """End."""
        self.seconds = time.process_time() - self._start


def gensims(
    arguments: argparse.Namespace, data: WordVectorsDataModule, objective: str, seed: int, rate: float
) -> Trained:
    """Train with gensim."""
    from gensim.models import Word2Vec

    names = [data.tokenizer.token_bytes(token).decode() for token in range(data.vocab_size)]
    tokens, T = np.asarray(data.train_tokens), data.context_length
    is_word = data.counts[tokens] > 0
    starts = range(0, len(tokens) - T, T)
    rows = [[names[token] for token in tokens[at : at + T][is_word[at : at + T]].tolist()] for at in starts]
    model = Word2Vec(
        vector_size=WordVectorsConfig().n_embd,
        window=data.window,
        min_count=1,  # rare words are no longer there
        sg=int(objective == "skip_gram"),
        negative=int(WordVectorsConfig().negatives),
        sample=data.sample,
        alpha=rate,
        seed=seed,
        workers=arguments.threads,
    )
    model.build_vocab(rows)
    start = time.process_time()
    model.train(rows, total_examples=len(rows), epochs=arguments.epochs)
    seconds = time.process_time() - start
    vectors = NamedVectors(model.wv.index_to_key, torch.from_numpy(model.wv.vectors))
    return Trained(seconds, vectors, torch.from_numpy(model.syn1neg))


def held_out_loss(train: Train, arguments: argparse.Namespace, folder: str, objective: str, rate: float) -> float:
    """The loss on the last tenth of the text, in nats a pair, after training on what comes before it."""
    seed = arguments.seeds[0]
    data = data_of(arguments, folder, seed, validation_fraction=0.1)
    trained = train(arguments, data, objective, seed, rate)
    module = WordVectorsModule(WordVectorsConfig(data.vocab_size, objective=objective))  # type: ignore[arg-type]
    torch.nn.init.zeros_(module.words.token.weight)  # of words that are in the last tenth alone
    ids = [data.tokenizer.encode(name)[0] for name in trained.vectors.names]
    with torch.no_grad():
        module.words.token.weight[ids] = trained.vectors.table
        module.words.predicted.weight[ids] = trained.predicted[: len(ids)]
    return L.Trainer(**QUIET).validate(module, data, verbose=False)[0]["validation/loss"]


def compare_tables(
    sources: Sequence[str], pairs: Sequence[Pairs], n_words: int = 200, k: int = 10
) -> list[dict[str, Any]]:
    """How well tables do on pairs that all of them have, and how alike the neighbours of words are."""
    tables = [read_vectors(source) for source in sources]

    def in_all(word: str) -> bool:
        return all(table.find(word) is not None for table in tables)

    rows: list[dict[str, Any]] = []
    for source, table in zip(sources, tables, strict=True):
        row: dict[str, Any] = {"vectors": source}
        for each in pairs:
            row[each.name], row[f"pairs of {each.name}"] = agreement(table, each, in_all)
        rows.append(row)
    words = common_words(tables)[:n_words]
    neighbours = [neighbours_within(table, words, k) for table in tables]
    for row, found in zip(rows, neighbours, strict=True):
        both = (found[:, :, None] == neighbours[0][:, None]).any(-1)  # (N, k, k) -> (N, k)
        row[f"of {k} neighbours, in common with the first"] = float(both.float().sum(1).mean())
    return rows


def common_words(tables: Sequence[NamedVectors]) -> list[str]:
    """Words of at least four letters that all tables have, in the order of the first: of word vectors by frequency."""
    names = (name.strip() for name in tables[0].names)
    return [
        name
        for name in names
        if name.isalpha() and len(name) > 3 and all(table.find(name) is not None for table in tables)
    ]


def draw(sources: Sequence[str], words: Sequence[str], picture: Path) -> None:
    """The same words in each table, on its two first principal components."""
    tables = [read_vectors(source) for source in sources]
    shown = [
        word for word in words or common_words(tables)[:40] if all(table.find(word) is not None for table in tables)
    ]
    figure = Figure(figsize=(5.2 * len(tables), 5), dpi=110, layout="constrained")
    for axis, table, source in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables, sources, strict=True):
        ids = torch.tensor([number for word in shown if (number := table.find(word)) is not None])
        unit = F.normalize(table.table[ids], dim=-1)
        centered = unit - unit.mean(0)
        _, _, directions = torch.linalg.svd(centered, full_matrices=False)
        first, second = (centered @ directions[:2].mT).mT.tolist()  # (N, C) x (C, 2) -> (2, N)
        axis.scatter(first, second, s=6, color="#0b6e99")
        for word, x, y in zip(shown, first, second, strict=True):
            axis.annotate(word, (x, y), fontsize=8, xytext=(2, 2), textcoords="offset points")
        axis.set(title=_name(source), xticks=[], yticks=[])
    figure.savefig(picture, metadata={"Software": None})


def _name(source: str) -> str:
    """A file's name; of a checkpoint that of its run, such as `gpt` of `runs/gpt/version_0/checkpoints/last.ckpt`."""
    path = Path(source)
    return path.parts[-4] if path.parent.name == "checkpoints" and len(path.parts) > 3 else path.name


def neighbours_within(vectors: NamedVectors, words: Sequence[str], k: int) -> Tensor:
    """The nearest neighbours of some words among themselves, (N, k)."""
    ids = torch.tensor([number for word in words if (number := vectors.find(word)) is not None])
    unit = F.normalize(vectors.table[ids], dim=-1)
    return (unit @ unit.mT).fill_diagonal_(-1).topk(min(k, len(words) - 1)).indices


if __name__ == "__main__":
    main()
