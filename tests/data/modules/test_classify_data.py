"""Labelled texts as a data module: splits, labels, balance, and what is refused."""

from __future__ import annotations

import logging
from collections import Counter

import pytest

from llm.config import TokenizerConfig
from llm.data import ClassifyDataModule
from llm.data.batch import IGNORED
from llm.errors import ConfigError, DataError
from llm.model import last_real

CHARS = TokenizerConfig("char", specials=("<|endoftext|>", "<|unk|>"))


@pytest.fixture
def corpus(tmp_path):
    """60 cheerful and 20 sad texts, and a few of them again."""
    path = tmp_path / "moods.csv"
    glad = [f"a fine day {n}" for n in range(60)]
    rows = [(text, "glad") for text in glad] + [(f"rain, again {n}", "sad") for n in range(20)]
    rows += [(text.upper(), "glad") for text in glad[:5]]
    path.write_text("text,mood\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    return path


@pytest.fixture
def make(corpus, tmp_path):
    def make(**options):
        settings = {"corpus": str(corpus), "tokenizer": CHARS, "cache_dir": str(tmp_path / "cache")}
        return ClassifyDataModule(**{**settings, **options})

    return make


def rows_of(data, loader):
    """(text, label) of every row of a loader, in order."""
    return [
        (data.tokenizer.decode(ids[:length].tolist()), data.labels[target])
        for batch in loader
        for ids, length, target in zip(
            batch.inputs, batch.lengths, last_real(batch.targets, batch.lengths).tolist(), strict=True
        )
    ]


def test_every_text_is_in_one_split_and_every_label_has_its_fraction(make):
    data = make(drop_last=False)
    splits = [rows_of(data, loader()) for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader)]
    texts = [text.lower() for split in splits for text, _ in split]
    assert len(texts) == len(set(texts)) == 80
    assert data.splits.repeated == 5
    assert [Counter(label for _, label in split) for split in splits] == [
        {"glad": 42, "sad": 14},
        {"glad": 6, "sad": 2},
        {"glad": 12, "sad": 4},
    ]
    assert all(label == ("sad" if "rain" in text else "glad") for split in splits for text, label in split)
    assert [data.counts(split) for split in ("train", "test")] == [{"glad": 42, "sad": 14}, {"glad": 12, "sad": 4}]
    again = make(seed=9, drop_last=False)
    assert rows_of(again, again.test_dataloader()) == splits[2], "splits do not depend on the run's seed"
    other = make(split_seed=1, drop_last=False)
    assert rows_of(other, other.test_dataloader()) != splits[2]


def test_the_class_is_the_target_of_the_last_real_token(make):
    for batch in make().train_dataloader():
        assert ((batch.targets != IGNORED).sum(1) == 1).all()
        assert (last_real(batch.targets, batch.lengths) != IGNORED).all()


def test_undersampling_balances_all_splits(make):
    data = make(balance="undersample")
    assert {split: data.counts(split) for split in data.rows} == {
        "train": {"glad": 14, "sad": 14},
        "validation": {"glad": 2, "sad": 2},
        "test": {"glad": 4, "sad": 4},
    }


def test_oversampling_balances_training_alone(make):
    data = make(balance="oversample", batch_size=4)
    found = Counter(label for _, label in rows_of(data, data.train_dataloader()))
    assert found == {"glad": 42, "sad": 42}
    assert data.counts("validation") == {"glad": 6, "sad": 2}


def test_weights_are_one_on_average(make):
    weights, counts = make(balance="weights").class_weights, make().counts("train")
    assert sum(weight * count for weight, count in zip(weights, counts.values(), strict=True)) == pytest.approx(56)
    assert weights[1] / weights[0] == pytest.approx(42 / 14)
    assert make().class_weights is None


def test_files_of_their_own_are_kept_out_of_training(make, tmp_path):
    test = tmp_path / "test.tsv"
    test.write_text("text\tmood\nA FINE day 3\tglad\nrain, again 4\tsad\nnew\tsad\n")
    data = make(test_corpus=str(test))
    assert data.splits.in_two_splits == 2
    assert data.counts("test") == {"glad": 1, "sad": 2}
    held = {row.text.lower() for row in data.rows["test"]}
    assert not held & {row.text.lower() for split in ("train", "validation") for row in data.rows[split]}


def test_what_is_tested_on_is_not_validated_on(make, tmp_path):
    for name, rows in (("validation", "A fine day 3,glad\nfog,sad\n"), ("test", "a  fine day 3,glad\nnew,sad\n")):
        (tmp_path / f"{name}.csv").write_text(f"text,mood\n{rows}")
    data = make(validation_corpus=str(tmp_path / "validation.csv"), test_corpus=str(tmp_path / "test.csv"))
    assert [row.text for row in data.rows["validation"]] == ["fog"]
    assert len(data.rows["test"]) == 2


def test_labels_that_the_model_has_keep_their_order(make):
    data = make(labels=["sad", "glad"])
    assert data.labels == ["sad", "glad"]
    assert dict(rows_of(data, data.val_dataloader())) == dict(rows_of(make(), make().val_dataloader()))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "text,mood\nnew,angry\nrain,sad\n",
            r"line 2: the label 'angry' \(test\) is none of .*: glad, sad; --data\.test_corpus null holds",
        ),
        ("text,mood\n,sad\n", "has no text that can be used: 1 row has no text"),
    ],
)
def test_a_test_file_that_can_not_be_tested_on_is_a_line(make, tmp_path, content, message):
    (tmp_path / "test.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        make(test_corpus=str(tmp_path / "test.csv"))


def test_settings_that_can_not_be(make, tmp_path):
    with pytest.raises(ConfigError, match=r"together below 1, got 0\.5 and 0\.6"):
        make(validation_fraction=0.5, test_fraction=0.6)
    with pytest.raises(ConfigError, match="split_seed must be at least 0"):
        make(split_seed=-1)
    with pytest.raises(DataError, match=r"the label 'glad' \(train\) is none of .* --data\.labels null takes those"):
        make(labels=["good", "sad"])
    with pytest.raises(ConfigError, match="labels must be two or more"):
        make(labels=["glad", "glad"])
    path = tmp_path / "one.csv"
    path.write_text("text,label\na,x\nb,x\n")
    with pytest.raises(DataError, match="two labels or more to train on; the corpus has only 'x'"):
        make(corpus=str(path))


def test_a_long_text_loses_its_end_and_that_is_said(make, caplog):
    data = make(context_length=11, drop_last=False)
    with caplog.at_level(logging.INFO, logger="llm"):
        data.prepare_data()
    assert "56 of 56 texts for train are longer than the context: their ends are cut off" in caplog.text
    data.setup("fit")
    assert {len(text) for text, _ in rows_of(data, data.train_dataloader())} == {11}


def test_the_text_to_try_is_that_of_the_corpus_whatever_the_vocabulary_lacks(make, tmp_path):
    path = tmp_path / "words.csv"
    rows = [(f"<{n}> says &{n} to \u00e9{n}", "odd" if n % 2 else "even") for n in range(20)]
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows), encoding="utf-8")
    data = make(corpus=str(path), tokenizer=TokenizerConfig("word"))
    assert data.sample_text() in [row.text for row in data.rows["validation"]]
    assert "<|unk|>" in data.tokenizer.decode(data.tokenizer.encode(data.sample_text())), "it has new words"
    path.write_text("text,label\n" + "".join(f"{'word ' * 100}{text},{label}\n" for text, label in rows))
    assert make(corpus=str(path)).sample_text() == " ".join(["word"] * 23)


def test_the_state_knows_the_texts_and_the_balance(make):
    state = make().state_dict()
    assert state["balance"] == "none"
    assert state != make(split_seed=1).state_dict()
    assert all(type(value) in (str, int, bool) for value in state.values())
