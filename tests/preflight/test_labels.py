"""What is said of labelled texts before a run."""

from __future__ import annotations

import pytest

from llm.config import TokenizerConfig
from llm.data import ClassifyDataModule
from llm.evaluation.baselines import baselines_of
from llm.preflight.labels import doubtful_labels, label_lines
from llm.preflight.plan import Plan, Start


@pytest.fixture
def make(tmp_path):
    def make(rows, test=None, **options):
        for name, table in (("train", rows), ("test", test or [])):
            lines = "".join(f"{text},{label}\n" for text, label in table)
            (tmp_path / f"{name}.csv").write_text(f"text,label\n{lines}")
        settings = {"tokenizer": TokenizerConfig("word"), "cache_dir": str(tmp_path / "cache")}
        own = {"test_corpus": str(tmp_path / "test.csv")} if test else {}
        return ClassifyDataModule(str(tmp_path / "train.csv"), **settings, **own, **options)

    return make


def hints(data):
    plan = Plan({}, Start())
    plan.datamodule = data
    return list(doubtful_labels(plan))


def test_counts_repetitions_and_baselines_of_the_same_splits(make):
    rows = [(f"good day {n}", "ham") for n in range(20)] + [(f"win money {n}", "spam") for n in range(10)]
    repeated = [("GOOD  day 3", "ham"), ("win money 4", "spam"), ("", "ham"), ("both", "ham"), ("both", "spam")]
    data = make([*rows, *repeated], [("good day 5", "ham"), ("win money 11", "spam")], validation_fraction=0.2)
    lines = list(label_lines(data))
    found = dict(lines)
    assert found["labels"] == "ham 15 + 4 + 1, spam 8 + 2 + 1 (to train + validate + test)"
    assert found["repetitions"].startswith("of 37 rows 3 repeat another and 1 stood in two splits")
    notes = [text for name, text in lines if not name]
    assert any("1 row has no text" in note for note in notes)
    assert any("1 text has several labels" in note for note in notes)
    for split in ("validation", "test"):
        expected = baselines_of(data, split)
        (line,) = (text for name, text in lines if name == "baselines" and text.startswith(split))
        assert f"Naive Bayes {expected.naive_bayes:.1%}, of the most frequent label {expected.majority:.1%}" in line


def test_doubtful_labels_are_hints(make):
    rare = [(f"good day {n}", "ham") for n in range(60)] + [(f"win {n}", "spam") for n in range(4)]
    (hint,) = [hint for hint in hints(make(rare, validation_fraction=0.25)) if "rare" in hint]
    assert "the label 'spam' is rare" in hint
    assert "balanced_accuracy" in hint
    assert not any("rare" in hint for hint in hints(make(rare, validation_fraction=0.25, balance="oversample")))
    alike = [(f"good day {n}", "Ham" if n % 2 else "ham") for n in range(30)]
    assert any("'Ham' and 'ham' differ only in case" in hint for hint in hints(make(alike)))
    assert any("test has no text of the label 'spam'" in hint for hint in hints(make(rare, [("new one", "ham")])))
    plain = [(f"good day {n}", "ham") for n in range(30)] + [(f"win {n}", "spam") for n in range(30)]
    assert hints(make(plain)) == []
