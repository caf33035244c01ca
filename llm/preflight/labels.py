"""What is known about labelled texts before a run: counts, repetitions, and what a network has to be better than."""

from __future__ import annotations

from collections.abc import Iterator

from llm.data import ClassifyDataModule
from llm.evaluation.baselines import baselines_of
from llm.preflight.plan import Plan
from llm.runtime.words import counted

_SHOWN = 8
_RARE = 0.2
"""A label below this fraction of an equal part is rare."""


def label_lines(datamodule: ClassifyDataModule) -> Iterator[tuple[str, str]]:
    """The lines of the table, a name and a text each."""
    counts = {split: datamodule.counts(split) for split in ("train", "validation", "test")}
    labels = [
        f"{label} {' + '.join(f'{counts[split][label]:,}' for split in counts)}" for label in datamodule.labels[:_SHOWN]
    ]
    more = f", and {len(datamodule.labels) - _SHOWN} more" if len(datamodule.labels) > _SHOWN else ""
    yield "labels", f"{', '.join(labels)}{more} (to train + validate + test)"
    splits = datamodule.splits
    yield (
        "repetitions",
        f"of {counted(splits.n_read, 'row')} {counted(splits.repeated, 'repeats', 'repeat')} another and "
        f"{splits.in_two_splits:,} stood in two splits: each text counts once",
    )
    for note in splits.notes:
        yield "", note
    for split in ("validation", "test"):
        if (found := baselines_of(datamodule, split)) is not None:
            yield (
                "baselines",
                f"{split} accuracy of Naive Bayes {found.naive_bayes:.1%}, of the most frequent label "
                f"{found.majority:.1%}: what the run has to beat",
            )


def doubtful_labels(plan: Plan) -> Iterator[str]:
    """Labels that may be one, rare ones, and those that a held-out split lacks."""
    data = plan.datamodule
    if not isinstance(data, ClassifyDataModule):
        return
    alike: dict[str, list[str]] = {}
    for label in data.labels:
        alike.setdefault(label.casefold(), []).append(label)
    for names in alike.values():
        if len(names) > 1:
            yield f"the labels {' and '.join(map(repr, names))} differ only in case; are they meant to be one?"
    counts = data.counts("train")
    equal = sum(counts.values()) / len(counts)
    rare = [label for label, count in counts.items() if count < _RARE * equal]
    if rare and data.balance == "none":
        yield (
            f"the label {rare[0]!r} is rare ({counts[rare[0]]:,} of {sum(counts.values()):,} texts): look at "
            "balanced_accuracy, not at accuracy; --data.balance oversample, weights or undersample may help"
        )
    for split in ("validation", "test"):
        missing = [label for label, count in data.counts(split).items() if not count]
        if data.rows[split] and missing:
            yield f"{split} has no text of the label {missing[0]!r}, so its metrics say nothing about it"
