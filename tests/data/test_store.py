import logging
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from llm.data import TokenStore, open_or_build
from llm.errors import DataError, TokenizerError
from llm.tokenizers import END_OF_TEXT, BPETokenizer, CharTokenizer, WordTokenizer


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def documents(folder, *texts):
    paths = [folder / f"{number}.txt" for number in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text, encoding="utf-8")
    return paths


def test_it_holds_the_ids_of_the_text(corpus, cache):
    text = corpus.read_text(encoding="utf-8")
    tokenizer = BPETokenizer()
    store = open_or_build([corpus], tokenizer, cache)
    assert store.tokens().tolist() == tokenizer.encode(text)
    assert (store.n_tokens, store.n_documents) == (len(tokenizer.encode(text)), 1)
    assert store.n_bytes == corpus.stat().st_size
    assert store.tokenizer == tokenizer.fingerprint
    assert TokenStore.open(store.path) == store


def test_tokens_are_memory_mapped_read_only_and_cut_without_reading(corpus, cache):
    store = open_or_build([corpus], BPETokenizer(), cache)
    every = store.tokens()
    assert isinstance(every, np.memmap)
    assert every.mode == "r"
    assert isinstance(store.tokens(3, 7), np.memmap)
    assert store.tokens(3, 7).tolist() == every[3:7].tolist()
    assert store.tokens(5).tolist() == every[5:].tolist()
    assert store.tokens(0, 10**9).tolist() == every.tolist()
    assert len(store.tokens(4, 4)) == 0


def test_documents_are_separated_by_the_end_of_text(tmp_path, cache):
    paths = documents(tmp_path, "ab", "b", "a")
    with_end = CharTokenizer("ab", (END_OF_TEXT,))
    store = open_or_build(paths, with_end, cache)
    assert store.tokens().tolist() == [0, 1, 2, 1, 2, 0]
    assert (store.n_tokens, store.n_documents, store.n_bytes) == (6, 3, 4)
    without_end = CharTokenizer("ab")
    assert open_or_build(paths, without_end, cache).tokens().tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize(("vocab_size", "bytes_each"), [(2**16, 2), (2**16 + 1, 4)])
def test_ids_take_two_bytes_until_the_vocabulary_needs_four(tmp_path, cache, vocab_size, bytes_each):
    tokenizer = CharTokenizer([chr(0x10000 + token_id) for token_id in range(vocab_size)])
    assert tokenizer.vocab_size == vocab_size
    store = open_or_build(documents(tmp_path, tokenizer.decode([vocab_size - 1, 0])), tokenizer, cache)
    assert store.tokens().tolist() == [vocab_size - 1, 0]
    assert store.tokens().dtype == f"<u{bytes_each}"


def test_gpt2_takes_two_bytes(corpus, cache):
    assert open_or_build([corpus], BPETokenizer(), cache).tokens().dtype == np.uint16


class Counting(CharTokenizer):
    """Counts how often it encodes a text."""

    encoded = 0

    def encode(self, text):
        type(self).encoded += 1
        return super().encode(text)


@pytest.fixture
def counting():
    Counting.encoded = 0
    return Counting


def test_the_same_text_and_tokenizer_are_encoded_once(tmp_path, cache, counting):
    paths = documents(tmp_path, "abba")
    store = open_or_build(paths, counting("ab"), cache)
    written = store.path.stat().st_mtime_ns
    assert open_or_build(paths, counting("ab"), cache) == store
    moved = paths[0].rename(tmp_path / "moved.txt")
    assert open_or_build([moved], counting("ab"), cache) == store
    assert counting.encoded == 1
    assert store.path.stat().st_mtime_ns == written
    assert list(cache.iterdir()) == [store.path]


def test_another_tokenizer_or_text_is_encoded_again(tmp_path, cache, counting):
    paths = documents(tmp_path, "abba")
    first = open_or_build(paths, counting("ab"), cache)
    other_tokenizer = open_or_build(paths, counting("ba"), cache)
    documents(tmp_path, "aaba")
    other_text = open_or_build(paths, counting("ab"), cache)
    assert counting.encoded == 3
    assert first.tokens().tolist() == [0, 1, 1, 0]
    assert other_tokenizer.tokens().tolist() == [1, 0, 0, 1]
    assert other_text.tokens().tolist() == [0, 0, 1, 0]


def rewrite(change):
    """Damage a file by changing its bytes."""
    return lambda path: path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(rewrite(lambda content: content[:-1]), id="last byte missing"),
        pytest.param(rewrite(lambda content: content + b"\0"), id="a byte too many"),
        pytest.param(rewrite(lambda content: content[:100]), id="half a header"),
        pytest.param(rewrite(lambda content: b""), id="empty"),
        pytest.param(rewrite(lambda content: b"\xff" * len(content)), id="garbage"),
        pytest.param(rewrite(lambda content: content[:16] + b"[]" + content[18:]), id="other JSON"),
        pytest.param(rewrite(lambda content: content.replace(b"n_tokens", b"n_tokems")), id="other field"),
        pytest.param(rewrite(lambda content: content.replace(b"<u2", b"<f2")), id="other type"),
    ],
)
def test_a_damaged_cache_is_refused_by_open_and_built_again(tmp_path, cache, caplog, damage):
    paths = documents(tmp_path, "abba")
    store = open_or_build(paths, CharTokenizer("ab"), cache)
    good = store.path.read_bytes()
    damage(store.path)
    with pytest.raises(DataError, match=store.path.name):
        TokenStore.open(store.path)
    with caplog.at_level(logging.WARNING):
        again = open_or_build(paths, CharTokenizer("ab"), cache)
    assert "building it again" in caplog.text
    assert again == store
    assert store.path.read_bytes() == good


def test_another_texts_cache_under_the_same_name_is_built_again(tmp_path, cache, caplog):
    first, second = documents(tmp_path, "abba", "bbbb")
    tokenizer = CharTokenizer("ab")
    mine, other = open_or_build([first], tokenizer, cache), open_or_build([second], tokenizer, cache)
    mine.path.write_bytes(other.path.read_bytes())
    with caplog.at_level(logging.WARNING):
        assert open_or_build([first], tokenizer, cache).tokens().tolist() == [0, 1, 1, 0]
    assert "another text's" in caplog.text


def test_a_store_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        TokenStore.open(tmp_path / "no.tokens")


def test_a_build_that_fails_leaves_nothing_and_names_the_document(tmp_path, cache):
    paths = documents(tmp_path, "a b", "a c")
    with pytest.raises(TokenizerError, match=r"1\.txt.*'c' at line 1, column 3"):
        open_or_build(paths, WordTokenizer(["a", "b"]), cache)
    assert list(cache.iterdir()) == []

    paths[1].write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"1\.txt.*offset 0"):
        open_or_build(paths, WordTokenizer(["a", "b"]), cache)
    assert list(cache.iterdir()) == []


def test_a_failing_build_keeps_the_file_that_is_there(tmp_path, cache):
    paths = documents(tmp_path, "abba")
    store = open_or_build(paths, CharTokenizer("ab"), cache)
    store.path.write_bytes(b"damaged")

    class Failing(CharTokenizer):
        def encode(self, text):
            raise TokenizerError("on purpose")

    with pytest.raises(TokenizerError, match="on purpose"):
        open_or_build(paths, Failing("ab"), cache)
    assert list(cache.iterdir()) == [store.path]
    assert store.path.read_bytes() == b"damaged"


def test_a_text_that_changes_while_it_is_read(tmp_path, cache):
    paths = documents(tmp_path, "abba")

    class Meddling(CharTokenizer):
        def encode(self, text):
            documents(tmp_path, "baab")
            return super().encode(text)

    with pytest.raises(DataError, match="changed while it was being read"):
        open_or_build(paths, Meddling("ab"), cache)
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_left_is_cleared_away(tmp_path, cache):
    paths = documents(tmp_path, "abba")

    class Killed(CharTokenizer):
        def encode(self, text):
            os._exit(9)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork and threads; this child starts none
        child = os.fork()
    if child == 0:
        open_or_build(paths, Killed("ab"), cache)
    os.waitpid(child, 0)
    assert len(list(cache.iterdir())) == 1
    store = open_or_build(paths, CharTokenizer("ab"), cache)
    assert store.tokens().tolist() == [0, 1, 1, 0]
    assert list(cache.iterdir()) == [store.path]


def test_a_cache_folder_that_cannot_be_made(tmp_path, corpus):
    with pytest.raises(DataError, match="cache"):
        open_or_build([corpus], BPETokenizer(), corpus / "cache")
    with pytest.raises(DataError, match=r"(?i)no such file"):
        open_or_build([Path("no such file.txt")], BPETokenizer(), tmp_path)
