"""Token ids as the corpus of a data module, and which tokenizer goes with them."""

import json
import os
import time
import tracemalloc

import numpy as np
import pytest

import llm.tokenizers.char
from llm.config import TokenizerConfig
from llm.data import TextDataModule
from llm.data.tokens.opening import learn_tokenizer
from llm.data.tokens.tokenize import Plan, tokenize
from llm.errors import ConfigError, DataError
from llm.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer


@pytest.fixture
def make(tmp_path):
    def build(corpus, tokenizer=None, **options):
        defaults = {"context_length": 8, "cache_dir": str(tmp_path / "cache")}
        return TextDataModule(str(corpus), tokenizer or TokenizerConfig(), **{**defaults, **options})

    return build


@pytest.fixture
def shards(tmp_path, corpus):
    """A folder of shards of `corpus`, for a tokenizer."""

    def build(tokenizer, **options):
        return tokenize(Plan([corpus], tokenizer, block_bytes=256, shard_tokens=300, **options), tmp_path / "shards")

    return build


@pytest.mark.parametrize(
    "config", [TokenizerConfig(kind) for kind in ("gpt2", "char", "word")] + [TokenizerConfig("bpe", vocab_size=270)]
)
def test_shards_train_like_the_text(make, shards, corpus, config):
    text = make(corpus, config)
    store = shards(text.tokenizer)
    assert len(store.shards) > 1
    data = make(store.path)
    data.prepare_data()
    data.setup("fit")
    assert data.tokenizer == text.tokenizer
    assert data.train_tokens.tolist() == text.train_tokens.tolist()
    assert data.validation_tokens.tolist() == text.validation_tokens.tolist()
    assert data.bytes_per_token("validation") == text.bytes_per_token("validation")
    assert data.state_dict() == text.state_dict(), "a run may go on with either"
    for ours, theirs in zip(data.train_dataloader(), text.train_dataloader(), strict=True):
        assert ours[0].tolist() == theirs[0].tolist()
    assert make(store.path, config).tokenizer == text.tokenizer
    assert make(store.path, text.tokenizer).train_tokens.tolist() == text.train_tokens.tolist()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (TokenizerConfig("gpt2"), "tokenized with kind 'char'; leave tokenizer.kind 'gpt2' out"),
        (TokenizerConfig("bpe", vocab_size=300), "tokenized with kind 'char'; leave tokenizer.kind 'bpe' out"),
        (TokenizerConfig("char", specials=("<a>",)), r"tokenized with specials \['<|endoftext|>'\]"),
    ],
)
def test_another_tokenizer_than_the_shards_is_refused(make, shards, corpus, asked, message):
    store = shards(learn_tokenizer(TokenizerConfig("char"), [corpus]))
    with pytest.raises(ConfigError, match=message):
        make(store.path, asked)


def test_another_pattern_or_ready_tokenizer_is_refused(make, shards, corpus):
    store = shards(learn_tokenizer(TokenizerConfig("word"), [corpus]))
    with pytest.raises(ConfigError, match="pattern 'with_colon'"):
        make(store.path, TokenizerConfig("word", pattern="without_colon"))
    with pytest.raises(DataError, match="holds ids of the tokenizer 'word' with the fingerprint"):
        make(store.path, WordTokenizer(["a"])).prepare_data()


def test_shards_as_validation_must_be_of_the_same_tokenizer(make, shards, corpus):
    store = shards(BPETokenizer())
    data = make(corpus, validation_corpus=str(store.path), test_corpus=str(store.path))
    data.setup("fit")
    assert data.validation_tokens.tolist() == store.tokens().tolist() == data.train_tokens.tolist()
    with pytest.raises(DataError, match="holds ids of the tokenizer 'gpt2'"):
        make(corpus, TokenizerConfig("char"), validation_corpus=str(store.path)).prepare_data()


def test_an_unfinished_store_is_not_taken_for_whole(make, shards):
    store = shards(BPETokenizer())
    (store.path / "store.json").unlink()
    with pytest.raises(DataError, match="is a token store that is not finished; run its `tokenize` command again"):
        make(store.path)


def test_token_ids_are_given_alone(make, shards, corpus, tmp_path):
    store = shards(BPETokenizer())
    with pytest.raises(DataError, match="can't be joined with other sources; give it alone"):
        TextDataModule([str(store.path), str(corpus)])
    assert TextDataModule([str(store.path)], cache_dir=str(tmp_path)).vocab_size == 50257


def test_a_shards_tokenizer_must_be_the_one_that_wrote_them(make, shards):
    store = shards(CharTokenizer.from_text("The cat sat. Ça va; 猫が座った。 😀 yes\n"))
    described = json.loads((store.path / "store.json").read_text())
    described["tokenizer"]["vocabulary"] = described["tokenizer"]["vocabulary"][::-1]
    (store.path / "store.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="its tokenizer is not the one that wrote its ids"):
        make(store.path)


# nanoGPT's files


def test_raw_files_of_nanogpt(make, tmp_path):
    ids = np.arange(500) * 100
    for name, part in (("train.bin", ids), ("val.bin", ids[:60])):
        part.astype("<u2").tofile(tmp_path / name)
    data = make(tmp_path / "train.bin", validation_corpus=str(tmp_path / "val.bin"))
    data.prepare_data()
    data.setup("fit")
    assert data.vocab_size == 50257
    assert data.train_tokens.tolist() == ids.tolist()
    assert data.validation_tokens.tolist() == ids[:60].tolist()
    assert data.bytes_per_token("validation") > 1
    state = data.state_dict()
    (ids + 1).astype("<u2").tofile(tmp_path / "train.bin")
    assert make(tmp_path / "train.bin").state_dict()["corpus"] != state["corpus"]


def test_raw_files_with_another_tokenizer(make, tmp_path):
    np.array([0, 1, 2] * 30, "<u2").tofile(tmp_path / "train.bin")
    assert make(tmp_path / "train.bin", CharTokenizer("abc")).train_tokens[:3].tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="id 2 at position 2 is outside the vocabulary of 2"):
        make(tmp_path / "train.bin", CharTokenizer("ab")).prepare_data()
    with pytest.raises(ConfigError, match="a char vocabulary can't be learned from the token ids"):
        make(tmp_path / "train.bin", TokenizerConfig("char"))


# Learned vocabularies


def test_the_vocabulary_of_a_large_text_is_learned_once(tmp_path, monkeypatch):
    monkeypatch.setattr("llm.data.tokens.opening.REMEMBERED_FROM", 1000)
    path, cache = tmp_path / "a.txt", tmp_path / "cache"
    path.write_text("abc " * 300)
    os.utime(path, (1, 1))
    first = learn_tokenizer(TokenizerConfig("char"), [path], cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(llm.tokenizers.char.CharTokenizer, "build", None)  # it would fail
        assert learn_tokenizer(TokenizerConfig("char"), [path], cache_dir=cache) == first
    other = learn_tokenizer(TokenizerConfig("char", specials=()), [path], cache_dir=cache)
    assert other.vocab_size == first.vocab_size - 1
    path.write_text("abcd " * 300)
    assert "d" in learn_tokenizer(TokenizerConfig("char"), [path], cache_dir=cache).vocabulary
    path.write_text("abc " * 300)
    (kept,) = [file for file in cache.glob("*.tokenizer.json") if json.loads(file.read_text()) == first.to_dict()]
    kept.write_text("{damaged")
    assert learn_tokenizer(TokenizerConfig("char"), [path], cache_dir=cache) == first


def test_a_byte_pair_encoding_of_a_large_text_is_learned_once(tmp_path, monkeypatch):
    monkeypatch.setattr("llm.data.tokens.opening.REMEMBERED_FROM", 1000)
    path, cache = tmp_path / "a.txt", tmp_path / "cache"
    path.write_text("abc " * 300)
    config = TokenizerConfig("bpe", vocab_size=260)
    first = learn_tokenizer(config, [path], cache_dir=cache)
    with monkeypatch.context() as patch:
        patch.setattr(llm.tokenizers.BytePairTokenizer, "build", None)  # it would fail
        assert learn_tokenizer(config, [path], cache_dir=cache) == first
    assert learn_tokenizer(TokenizerConfig("bpe", vocab_size=259), [path], cache_dir=cache).vocab_size == 259


def test_a_byte_pair_encoding_is_learned_from_records_and_files(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "hello hello"}) + "\n" + json.dumps({"text": "hello"}))
    (tmp_path / "b.txt").write_text("other other other")
    found = learn_tokenizer(TokenizerConfig("bpe", vocab_size=280), [tmp_path / "a.jsonl", tmp_path / "b.txt"])
    assert {"hello", "other"} <= {token.removeprefix("Ġ") for token in found.vocabulary}
    with pytest.raises(DataError, match="can't read"):
        learn_tokenizer(TokenizerConfig("bpe", vocab_size=280), [tmp_path / "missing.txt"])


def test_opening_a_corpus_of_the_size_of_the_notes_takes_no_time_and_no_memory(make, tmp_path):
    (np.arange(418_000) % 50257).astype("<u2").tofile(tmp_path / "train.bin")

    def open_it():
        data = make(tmp_path / "train.bin", context_length=256, stride=1)
        data.prepare_data()
        return data.train_dataloader()

    assert len(open_it()) == 93_986  # batches of 4 windows
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        open_it()
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.1
    tracemalloc.start()
    loader = open_it()
    next(iter(loader))
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert memory < 10e6
