"""Pairs as batches: what the encoder reads, what the decoder reads, and what it is to predict."""

from pathlib import Path

import pytest
import torch

from llm.config import TokenizerConfig
from llm.data import TranslationDataModule
from llm.data.batch import IGNORED
from llm.errors import ConfigError, DataError, TokenizerError

CHAR = TokenizerConfig("char")


@pytest.fixture
def make(tmp_path):
    def make(lines, **options):
        path = tmp_path / "pairs.tsv"
        path.write_text("".join(f"{source}\t{target}\n" for source, target in lines))
        settings = {"batch_size": 2, "context_length": 8, "validation_fraction": 0.0}
        return TranslationDataModule(str(path), **{**settings, **options})

    return make


def test_a_batch_is_sources_and_targets_with_their_ends(make):
    data = make([("abc", "x"), ("b", "yz")], shuffle=False)
    (batch,) = data.train_dataloader()
    end = data.tokenizer.end_of_text_id
    encode = data.tokenizer.encode
    sources = zip(batch.source, batch.source_lengths, strict=True)
    rows = {tuple(ids[:n].tolist()): number for number, (ids, n) in enumerate(sources)}
    first, second = rows[*encode("abc"), end], rows[*encode("b"), end]
    assert batch.inputs[first].tolist() == [end, *encode("x"), 0]
    assert batch.targets[first].tolist() == [*encode("x"), end, IGNORED]
    assert batch.inputs[second].tolist() == [end, *encode("yz")]
    assert batch.targets[second].tolist() == [*encode("yz"), end]
    assert batch.lengths[[first, second]].tolist() == [2, 3]
    assert batch.source_lengths[[first, second]].tolist() == [4, 2]
    assert (batch.targets != IGNORED).sum() == batch.lengths.sum()


def test_two_tokenizers_or_a_shared_one(make):
    lines = [("ab", "xyz"), ("b", "z")]
    shared = make(lines)
    assert shared.tokenizer is shared.source_tokenizer
    assert shared.vocab_size == shared.source_vocab_size == 5 + 1
    apart = make(lines, share_tokenizer=False)
    assert (apart.source_vocab_size, apart.vocab_size) == (2 + 1, 3 + 1)
    with pytest.raises(ConfigError, match="ends with a token that this tokenizer lacks"):
        make(lines, tokenizer=TokenizerConfig("char", specials=()))


def test_splits_are_by_distinct_source(make):
    lines = [(f"s{number % 10}", f"t{number}") for number in range(30)]
    data = make(lines, validation_fraction=0.3)
    train, validation = data.pairs("train"), data.pairs("validation")
    assert sorted(train + validation) == sorted(lines)
    assert len({pair.source for pair in validation}) == 3
    assert not {pair.source for pair in train} & {pair.source for pair in validation}
    assert data.pairs("test") == validation
    assert make(lines, validation_fraction=0.3, seed=5).pairs("validation") == validation
    assert [pair.target for pair in data.sentences("validation", 2)] == [validation[0].target, validation[-1].target]
    assert data.sentences("validation", 100) == validation


def test_a_single_source_is_trained_on(make):
    data = make([("s", "t0"), ("s", "t1")], validation_fraction=0.05)
    assert (len(data.pairs("train")), len(data.pairs("validation"))) == (2, 0)


def test_a_validation_corpus_of_its_own(make, tmp_path):
    other = tmp_path / "other.tsv"
    other.write_text("b\ty\n")
    data = make([("ab", "xy"), ("b", "y")], validation_corpus=str(other))
    assert (len(data.pairs("train")), len(data.pairs("validation")), len(data.pairs("test"))) == (2, 1, 1)


def test_a_test_corpus_that_can_not_be_used_is_refused_before_training(make, tmp_path):
    other = tmp_path / "other.tsv"
    with pytest.raises(DataError, match=r"other\.tsv"):
        make([("a", "x")], test_corpus=str(other), batch_size=1).setup("fit")
    other.write_text("aaaaaaaa\tx\n")
    with pytest.raises(DataError, match=r"'aaaaaaaa'\.\.\. for test has 9 tokens"):
        make([("a", "x")], test_corpus=str(other), batch_size=1).setup("fit")


def test_a_source_longer_than_the_context(make, caplog):
    lines = [("abcdefgh", "x"), ("a", "x"), ("a", "xxxxxxxxx")]
    with pytest.raises(DataError, match=r"the source 'abcdefgh'\.\.\. for train has 9 tokens .* context_length 8; set"):
        make(lines).setup("fit")
    with caplog.at_level("INFO", logger="llm"):
        data = make(lines, skip_longer=True, batch_size=1)
        data.setup("fit")
    assert data.pairs("train") == [("a", "x")]
    assert "2 pairs for train are left out" in caplog.text


def test_batches_hold_pairs_of_similar_length(make):
    data = make([("a" * n, "x") for n in (1, 5, 3, 1, 5, 3)])
    for batch in data.train_dataloader():
        assert batch.source_lengths.max() == batch.source_lengths.min()


def test_the_files_of_a_corpus_are_named_and_those_of_dates_are_none(make, tmp_path):
    assert make([("a", "x")]).files == [tmp_path / "pairs.tsv"]
    two = [tmp_path / "a.zh", tmp_path / "a.en"]
    for file in two:
        file.write_text("a\n")
    assert TranslationDataModule([str(file) for file in two], tokenizer=CHAR).files == two
    assert TranslationDataModule().files == []


def test_a_resumed_run_needs_the_same_pairs(make):
    identity = make([("a", "x"), ("b", "y")]).data_identity()
    assert identity == make([("a", "x"), ("b", "y")]).data_identity()
    assert identity != make([("a", "y"), ("b", "x")]).data_identity()


def test_dates_are_generated():
    data = TranslationDataModule()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (64, 11)
    assert batch.source_lengths.dtype == torch.int64
    assert len(data.pairs("test")) > len(data.pairs("validation")) > 1000


def test_dates_may_be_validated_and_tested_on_beside_pairs_of_a_file(make):
    dates = TranslationDataModule()
    options = {"tokenizer": dates.tokenizer, "validation_corpus": "dates", "test_corpus": "dates"}
    data = make([("1 May 1979", "1979-05-01")], context_length=64, **options)
    assert all(data.pairs(split) == dates.pairs(split) for split in ("validation", "test"))
    assert len(data.pairs("train")) == 1


def test_an_unknown_character_names_the_side_that_it_is_on(make, tmp_path):
    Path(tmp_path / "other.tsv").write_text("q\tx\n")
    for share, setting in ((True, "data.tokenizer.specials"), (False, "data.source_tokenizer.specials")):
        data = make([("a", "x")], share_tokenizer=share, validation_corpus=str(tmp_path / "other.tsv"))
        with pytest.raises(TokenizerError, match=f"unknown character 'q'.* among {setting}"):
            data.pairs("validation")


def test_the_only_source_is_trained_on(make):
    data = make([("a", "x"), ("a", "y")], validation_fraction=0.5)
    assert len(data.pairs("train")) == 2
    assert data.validation_loader() == []
