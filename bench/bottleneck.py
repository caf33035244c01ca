"""The bottleneck: quality by the length of the source, before attention, with Bahdanau's, and of a Transformer.

The experiment of Bahdanau et al. 2014, figure 2, on dates: a source is a list of 1 to `--longest` dates as people write
them ("3 May 1979 and the 4th of July 2021 ..."), its target each of them as year, month and day ("1979 05 03 2021 07
04"). Three networks of about as many parameters are trained for the same number of steps, with the same optimizer, on
the same lists. Quality is the fraction of the dates of held-out lists that are right and at their place, by the number
of dates in the list. A last hidden state is of one size, however much it has to hold; attention looks back.

The second picture is the alignment of one list, as the paper's figure 3: which words of the source the decoder looked
at (columns) when it wrote each word of the target (rows).
"""

from __future__ import annotations

import argparse
import datetime
import json
import logging
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import numpy as np
import torch
from matplotlib.figure import Figure

from llm.config import OptimConfig, RNNConfig, TokenizerConfig, TransformerConfig
from llm.data import TranslationDataModule
from llm.generation.translating import Translator
from llm.inspection import capture
from llm.inspection.figures import map_grid, to_png
from llm.model import EncoderDecoder
from llm.tasks import TranslationModel

NAMES = {"none": "RNN, no attention", "bahdanau": "RNN, Bahdanau's attention", "transformer": "Transformer"}
COLOURS = {"none": "#9aa5b1", "bahdanau": "#0b6e99", "transformer": "#c2571a"}
ALIGNED = "July 4, 2021 and the 23rd of May 1979 and 9 August 1966"
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
    add("--networks", nargs="+", choices=list(NAMES), default=list(NAMES), help="(%(default)s)")
    add("--longest", type=int, default=8, help="dates in a list (%(default)s)")
    add("--lists", type=int, default=40_000, help="to train on (%(default)s)")
    add("--test_lists", type=int, default=100, help="of each length (%(default)s)")
    add("--steps", type=int, default=1000, help="(%(default)s)")
    add("--learning_rate", type=float, default=5e-3, help="(%(default)s)")
    add("--seed", type=int, default=1, help="(%(default)s)")
    add("--pictures", type=Path, metavar="FOLDER", help="write bottleneck.png and alignment.png there")
    add("--tiny", action="store_true", help="a size that only shows that this runs")
    add("--json", action="store_true", help="print one JSON document instead of the table")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.longest, arguments.lists, arguments.test_lists, arguments.steps = 3, 200, 4, 2
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        data = data_of(arguments, Path(folder))
        tests = [list(lists_of(2 + n, arguments.test_lists, n, n)) for n in range(1, arguments.longest + 1)]
        for name in arguments.networks:
            translator, seconds = train(name, arguments, data)
            row = {"network": name, "parameters": translator.model.n_parameters, "seconds": round(seconds)}
            rows.append({**row, "right": [fraction_right(translator, lists) for lists in tests]})
            if not arguments.json:
                right = " ".join(f"{value:.2f}" for value in rows[-1]["right"])
                print(f"{NAMES[name]:26} {row['parameters']:,} parameters, {seconds:.0f} s; right: {right}", flush=True)
            if arguments.pictures and name == "bahdanau":
                (arguments.pictures / "alignment.png").write_bytes(alignment(translator, ALIGNED))
    if arguments.pictures:
        draw(rows, arguments.pictures / "bottleneck.png")
    if arguments.json:
        print(json.dumps({"rows": rows}))


def lists_of(seed: int, count: int, fewest: int, most: int) -> Iterator[List]:
    """Lists of random dates, of a random number of them."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        dates = []
        for _ in range(random.integers(fewest, most + 1)):
            date = datetime.date(1950, 1, 1) + datetime.timedelta(days=int(random.integers(36_525)))
            dates.append((_written(date, int(random.integers(3))), f"{date:%Y %m %d}"))
        sources, targets = zip(*dates, strict=True)
        yield List(" and ".join(sources), " ".join(targets), len(dates))


def _written(date: datetime.date, form: int) -> str:
    month, day, year = _MONTHS[date.month - 1], date.day, date.year
    ending = "th" if day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day % 10, "th")
    return (f"{month} {day}, {year}", f"{day} {month} {year}", f"the {day}{ending} of {month} {year}")[form]


def data_of(arguments: argparse.Namespace, folder: Path) -> TranslationDataModule:
    """The lists to train on."""
    table = folder / "lists.tsv"
    lists = lists_of(1, arguments.lists, 1, arguments.longest)
    table.write_text("".join(f"{each.source}\t{each.target}\n" for each in lists), encoding="utf-8")
    data = TranslationDataModule(
        str(table),
        tokenizer=TokenizerConfig("word"),
        context_length=6 * arguments.longest + 2,
        batch_size=64,
        validation_fraction=0.0,
        seed=arguments.seed,
    )
    data.prepare_data()
    data.setup("fit")
    return data


def train(name: str, arguments: argparse.Namespace, data: TranslationDataModule) -> tuple[Translator, float]:
    """A trained network, and the seconds that it took."""
    torch.manual_seed(arguments.seed)
    sizes: dict[str, Any] = {"context_length": data.context_length, "source_vocab_size": data.source_vocab_size}
    optim = OptimConfig(learning_rate=arguments.learning_rate, warmup_steps=100, weight_decay=0.0)
    options: dict[str, Any] = {"optim": optim, "sentences": 0}
    if name == "transformer":
        transformer = TransformerConfig(data.vocab_size, n_layer=2, n_head=4, n_embd=44, dropout=0.0, **sizes)
        module = TranslationModel(transformer, **options)
    else:
        hidden = 64 if name == "bahdanau" else 83  # the attention's parameters, too, for the state
        rnn = RNNConfig(data.vocab_size, attention=name, n_embd=32, hidden_size=hidden, **sizes)  # type: ignore[arg-type]
        module = TranslationModel(kind="rnn", rnn=rnn, **options)
    trainer = L.Trainer(
        max_steps=arguments.steps,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        limit_val_batches=0,
    )
    start = time.perf_counter()
    trainer.fit(module, data)
    seconds = time.perf_counter() - start
    network = module.network.eval()
    assert isinstance(network, EncoderDecoder)
    return Translator(network, data.tokenizer, data.source_tokenizer), seconds


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
    for row in rows:
        name, right = row["network"], row["right"]
        axis.plot(range(1, len(right) + 1), right, marker="o", color=COLOURS[name], label=NAMES[name])
    axis.set(xlabel="dates in the list", ylabel="dates right", ylim=(0, 1.03))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="lower left")
    figure.savefig(picture, metadata={"Software": None})


if __name__ == "__main__":
    main()
