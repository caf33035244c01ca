"""The bottleneck: quality by the length of the source, before attention, with Bahdanau's, and of a Transformer.

The experiment of Bahdanau et al. 2014, figure 2, on dates: a source is a list of 1 to `--longest` dates as people write
them ("3 May 2009 and July 4 2021 ..."), its target each of them as year, month and day ("2009 5 3 2021 7 4").
Networks of about `--parameters` parameters are trained on the same lists for the same processor time on one thread,
each with the one of `--learning_rates` that has the lowest loss on validation lists after a fifth of that time. Quality
is the fraction of the dates of test lists that are right and at their place, by the number of dates in the list. A last
hidden state is of one size, however much it has to hold; attention looks back.

The second picture is the alignment of one list, as the paper's figure 3: which words of the source the decoder looked
at (columns) when it wrote each word of the target (rows).
"""

from __future__ import annotations

import argparse
import bisect
import datetime
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from bench._equal_time import Budget, trainer_of, validation_loss
from llm.config import OptimConfig, RNNConfig, TokenizerConfig, TransformerConfig
from llm.data import TranslationDataModule
from llm.generation.translating import Translator
from llm.inspection import capture
from llm.inspection.colours import to_png
from llm.inspection.figures import map_grid
from llm.tasks import TranslationModel

NAMES = {
    "none": "GRU, no attention",
    "bahdanau": "GRU, Bahdanau's attention",
    "lstm-none": "LSTM, no attention",
    "lstm-bahdanau": "LSTM, Bahdanau's attention",
    "transformer": "Transformer",
}
COLOURS = {
    "none": "#9aa5b1",
    "bahdanau": "#0b6e99",
    "lstm-none": "#c9a227",
    "lstm-bahdanau": "#4c956c",
    "transformer": "#c2571a",
}
ALIGNED = "July 4 2021 and 23 May 2009 and 9 August 2016"
TRIAL = 0.2
"""The fraction of the time that a learning rate is tried for."""
_MONTHS = [
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
]


class List(NamedTuple):
    """A list of dates.

    Args:
        source: as people write them.
        target: each as year, month and day.
        n_dates: how many there are.
    """

    source: str
    target: str
    n_dates: int


def main() -> None:
    """Train, measure, and draw."""
    parser = argparse.ArgumentParser("python -m bench.bottleneck", description=__doc__)
    add = parser.add_argument
    add("--networks", nargs="+", choices=list(NAMES), default=["none", "bahdanau", "transformer"], help="(%(default)s)")
    add("--parameters", type=int, default=100_000, help="of each network, as nearly as its sizes allow (%(default)s)")
    add("--longest", type=int, default=8, help="dates in a list (%(default)s)")
    add("--lists", type=int, default=50_000, help="to train on (%(default)s)")
    add("--test_lists", type=int, default=100, help="of each length (%(default)s)")
    add("--seconds", type=float, default=40.0, help="of processor time for each network (%(default)s)")
    add("--learning_rates", nargs="+", type=float, default=[2e-3, 5e-3], help="to choose from (%(default)s)")
    add("--seed", type=int, default=1, help="(%(default)s)")
    add("--pictures", type=Path, metavar="FOLDER", help="write bottleneck.png and bottleneck-alignment.png there")
    add("--tiny", action="store_true", help="a size that only shows that this runs")
    add("--json", action="store_true", help="print one JSON document instead of the table")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.longest, arguments.lists, arguments.test_lists, arguments.seconds = 3, 200, 4, 0.5
        arguments.learning_rates, arguments.parameters = arguments.learning_rates[:1], 20_000
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = data_of(arguments, Path(folder))
        tests = [list(lists_of(2 + n, arguments.test_lists, n, n)) for n in range(1, arguments.longest + 1)]
        for name in arguments.networks:
            learning_rate = choose_rate(name, arguments, data)
            translator, steps = train(name, learning_rate, arguments.seconds, arguments, data)
            row = {"network": name, "parameters": translator.model.n_parameters}
            row |= {"learning_rate": learning_rate, "steps": steps}
            rows.append({**row, "right": [fraction_right(translator, lists) for lists in tests]})
            if not arguments.json:
                right = " ".join(f"{value:.2f}" for value in rows[-1]["right"])
                print(
                    f"{NAMES[name]:26} {row['parameters']:,} parameters, learning rate {learning_rate:g}, "
                    f"{steps:,} steps; right: {right}",
                    flush=True,
                )
            if arguments.pictures and name == "bahdanau":
                (arguments.pictures / "bottleneck-alignment.png").write_bytes(alignment(translator, ALIGNED))
    if arguments.pictures:
        draw(rows, arguments.pictures / "bottleneck.png")
    if arguments.json:
        print(json.dumps({"rows": rows}))


def lists_of(seed: int, count: int, fewest: int, most: int) -> Iterator[List]:
    """Lists of random dates: half as many of twice the length, so that short ones are learned first."""
    random, lengths = np.random.default_rng(seed), np.arange(fewest, most + 1)
    for _ in range(count):
        dates = []
        for _ in range(random.choice(lengths, p=1 / lengths / (1 / lengths).sum())):
            date = datetime.date(2000, 1, 1) + datetime.timedelta(days=int(random.integers(10_957)))
            dates.append((_written(date, int(random.integers(2))), f"{date.year} {date.month} {date.day}"))
        sources, targets = zip(*dates, strict=True)
        yield List(" and ".join(sources), " ".join(targets), len(dates))


def _written(date: datetime.date, form: int) -> str:
    month = _MONTHS[date.month - 1]
    return (f"{month} {date.day} {date.year}", f"{date.day} {month} {date.year}")[form]


def data_of(arguments: argparse.Namespace, folder: Path) -> TranslationDataModule:
    """The lists to train and to validate on."""
    table = folder / "lists.tsv"
    lists = lists_of(1, arguments.lists, 1, arguments.longest)
    table.write_text("".join(f"{each.source}\t{each.target}\n" for each in lists), encoding="utf-8")
    data = TranslationDataModule(
        str(table),
        tokenizer=TokenizerConfig("word"),
        context_length=4 * arguments.longest + 2,
        batch_size=64,
        validation_fraction=0.02,
        seed=arguments.seed,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def build(name: str, size: int, data: TranslationDataModule, learning_rate: float = 1e-3) -> TranslationModel:
    """A network of this hidden size (of a Transformer, its embedding size), and how it is trained."""
    sizes: dict[str, Any] = {
        "vocab_size": data.vocab_size,
        "source_vocab_size": data.source_vocab_size,
        "context_length": data.context_length,
    }
    options: dict[str, Any] = {"optim": OptimConfig(learning_rate=learning_rate, weight_decay=0.0), "sentences": 0}
    if name == "transformer":
        return TranslationModel(TransformerConfig(n_layer=2, n_head=2, n_embd=size, dropout=0.0, **sizes), **options)
    cell, _, attention = name.rpartition("-")
    rnn = RNNConfig(cell=cell or "gru", attention=attention, n_embd=32, hidden_size=size, **sizes)  # type: ignore[arg-type]
    return TranslationModel(kind="rnn", rnn=rnn, **options)


def size_of(name: str, parameters: int, data: TranslationDataModule) -> int:
    """The size with which this network is nearest to so many parameters."""

    def count(size: int) -> int:
        with torch.device("meta"):
            return build(name, size, data).translator.n_parameters

    sizes = range(8, 257, 4)
    at = bisect.bisect_left(sizes, parameters, key=count)
    return min(sizes[max(0, at - 1) : at + 1], key=lambda size: abs(count(size) - parameters))


def train(
    name: str, learning_rate: float, seconds: float, arguments: argparse.Namespace, data: TranslationDataModule
) -> tuple[Translator, int]:
    """A network that was trained for so many seconds, and its steps."""
    size = size_of(name, arguments.parameters, data)
    torch.manual_seed(arguments.seed)
    module = build(name, size, data, learning_rate)
    trainer = trainer_of(Budget(seconds, learning_rate))
    trainer.fit(module, data)
    return Translator(module.translator.eval(), data.tokenizer, data.source_tokenizer), trainer.global_step


def choose_rate(name: str, arguments: argparse.Namespace, data: TranslationDataModule) -> float:
    """The learning rate with the lowest loss on the validation lists after a short training."""
    if len(arguments.learning_rates) == 1:
        return float(arguments.learning_rates[0])

    def loss(learning_rate: float) -> float:
        translator, _ = train(name, learning_rate, TRIAL * arguments.seconds, arguments, data)
        return validation_loss(translator.model, data)

    return float(min(arguments.learning_rates, key=loss))


def fraction_right(translator: Translator, lists: list[List]) -> float:
    """Of all dates in some lists, how many are right and at their place."""
    found = translator.translate([each.source for each in lists])
    right = total = 0
    for translation, each in zip(found, lists, strict=True):
        ours, expected = (_dates(text) for text in (translation.text, each.target))
        right += sum(mine == theirs for mine, theirs in zip(ours, expected, strict=False))
        total += each.n_dates
    return right / total


def _dates(text: str) -> list[tuple[str, ...]]:
    words = text.split()
    return [tuple(words[at : at + 3]) for at in range(0, len(words), 3)]


def alignment(translator: Translator, source: str) -> bytes:
    """A picture of where the decoder looked, as a PNG."""
    ids = translator.encode(source)
    (found,) = translator.translate([source])
    begin = translator.tokenizer.end_of_text_id
    assert begin is not None
    written, most = found.hypothesis.ids, translator.model.config.context_length
    inputs = torch.tensor([[begin, *written][:most]])
    (weights,) = capture(translator.model, inputs, source=torch.tensor([ids])).maps("cross")
    rows = [translator.tokenizer.decode([token]) for token in [*written, begin][:most]]
    columns = [translator.source_tokenizer.decode([token]) for token in ids]
    title = "where the decoder looked when it wrote each word"
    axes = ("written", "looked at")
    return to_png(map_grid(weights[0].float().numpy(), ["alignment"], title, rows, columns, axes=axes, masked=False))


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    """The fraction that is right over the number of dates, a line for each network."""
    figure = Figure(figsize=(7, 3.4), dpi=110, layout="constrained")
    axis = figure.subplots()
    for row, size in zip(rows, range(10, 0, -2), strict=False):  # smaller and smaller, so that each is seen
        name, right = row["network"], row["right"]
        axis.plot(range(1, len(right) + 1), right, marker="o", ms=size, color=COLOURS[name], label=NAMES[name])
    axis.set(xlabel="dates in the list", ylabel="dates right", ylim=(0, 1.03))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left")
    figure.savefig(picture, metadata={"Software": None})


if __name__ == "__main__":
    main()
