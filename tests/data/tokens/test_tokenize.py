import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest

from llm.config import TokenizerConfig
from llm.data import TokenStore, open_or_build
from llm.data.reading.hashing import corpus_hash
from llm.data.tokens.tokenize import Plan, tokenize
from llm.errors import DataError, TokenizerError
from llm.tokenizers import END_OF_TEXT, BPETokenizer, CharTokenizer, WordTokenizer, build_tokenizer


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
    assert store.fingerprint == tokenizer.fingerprint
    assert store.make_tokenizer() == tokenizer
    assert TokenStore.open(store.path) == store


def test_tokens_are_cut_without_reading(corpus, cache):
    store = open_or_build([corpus], BPETokenizer(), cache)
    every = store.tokens()
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

    def encode_array(self, text):
        type(self).encoded += 1
        return super().encode_array(text)


@pytest.fixture
def counting():
    Counting.encoded = 0
    return Counting


def test_the_same_text_and_tokenizer_are_encoded_once(tmp_path, cache, counting):
    paths = documents(tmp_path, "abba")
    store = open_or_build(paths, counting("ab"), cache)
    written = (store.path / "store.json").stat().st_mtime_ns
    assert open_or_build(paths, counting("ab"), cache) == store
    moved = paths[0].rename(tmp_path / "moved.txt")
    assert open_or_build([moved], counting("ab"), cache) == store
    assert counting.encoded == 1
    assert (store.path / "store.json").stat().st_mtime_ns == written
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


def rewrite(name, change):
    """Damage a file of a store by changing its bytes."""
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes()))


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


SHARD, DESCRIPTION = "00000.tokens", "store.json"


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(rewrite(SHARD, lambda content: content[:-1]), id="last byte missing"),
        pytest.param(rewrite(SHARD, lambda content: content + b"\0"), id="a byte too many"),
        pytest.param(rewrite(SHARD, lambda content: content[:100]), id="half a header"),
        pytest.param(rewrite(SHARD, lambda content: b""), id="empty"),
        pytest.param(rewrite(SHARD, lambda content: b"\xff" * len(content)), id="garbage"),
        pytest.param(rewrite(SHARD, lambda content: content[:16] + b"[]" + content[18:]), id="other JSON"),
        pytest.param(rewrite(SHARD, lambda content: content.replace(b"n_tokens", b"n_tokems")), id="other field"),
        pytest.param(rewrite(SHARD, lambda content: content.replace(b"<u2", b"<f2")), id="other type"),
        pytest.param(lambda folder: (folder / SHARD).unlink(), id="no shard"),
        pytest.param(rewrite(DESCRIPTION, lambda content: content[:-1]), id="half a description"),
        pytest.param(rewrite(DESCRIPTION, lambda content: b"[]"), id="another description"),
        pytest.param(rewrite(DESCRIPTION, lambda content: content.replace(b"n_tokens", b"n_tokems")), id="no count"),
        pytest.param(rewrite(DESCRIPTION, lambda content: content.replace(b"<u2", b"<u4")), id="contradiction"),
        pytest.param(rewrite(DESCRIPTION, lambda content: content.replace(b'": 2,', b'": 9,')), id="other version"),
    ],
)
def test_a_damaged_cache_is_refused_by_open_and_built_again(tmp_path, cache, caplog, damage):
    paths = documents(tmp_path, "abba")
    store = open_or_build(paths, CharTokenizer("ab"), cache)
    good = content(store.path)
    damage(store.path)
    with pytest.raises(DataError, match=store.path.name):
        TokenStore.open(store.path)
    with caplog.at_level(logging.WARNING):
        again = open_or_build(paths, CharTokenizer("ab"), cache)
    assert "building it again" in caplog.text
    assert again == store
    assert content(store.path) == good


def test_another_texts_cache_under_the_same_name_is_built_again(tmp_path, cache, caplog):
    first, second = documents(tmp_path, "abba", "bbbb")
    tokenizer = CharTokenizer("ab")
    mine, other = open_or_build([first], tokenizer, cache), open_or_build([second], tokenizer, cache)
    for name, bytes_ in content(other.path).items():
        (mine.path / name).write_bytes(bytes_)
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


def test_a_text_that_changes_while_it_is_read(tmp_path, cache):
    paths = documents(tmp_path, "abba")

    class Meddling(CharTokenizer):
        def encode_array(self, text):
            documents(tmp_path, "baab")
            return super().encode_array(text)

    with pytest.raises(DataError, match="changed while it was being read"):
        open_or_build(paths, Meddling("ab"), cache)
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_left_is_cleared_away(tmp_path, cache):
    paths = documents(tmp_path, "abba", "b")

    class Killed(CharTokenizer):
        def encode_array(self, text):
            if text == "b":
                time.sleep(0.5)  # the first document is being written by now
                os._exit(9)
            return super().encode_array(text)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork and threads; this child has none from here
        child = os.fork()
    if child == 0:
        open_or_build(paths, Killed("ab"), cache)
    os.waitpid(child, 0)
    (folder,) = cache.iterdir()
    assert [path.suffix for path in folder.iterdir()] == [".tmp"]
    store = open_or_build(paths, CharTokenizer("ab"), cache)
    assert store.tokens().tolist() == [0, 1, 1, 0, 1]
    assert sorted(path.name for path in folder.iterdir()) == ["00000.tokens", "store.json"]


def test_a_cache_folder_that_cannot_be_made(tmp_path, corpus):
    with pytest.raises(DataError, match="cache"):
        open_or_build([corpus], BPETokenizer(), corpus / "cache")
    with pytest.raises(DataError, match=r"(?i)no such file"):
        open_or_build([Path("no such file.txt")], BPETokenizer(), tmp_path)


# In a stream


def plan(paths, tokenizer, **options):
    return Plan(paths, tokenizer, **{"block_bytes": 64, "threads": 2, **options})


TEXTS = ("The cat sat. Ça va; 猫が座った。 😀 yes\n" * 30, "one two <|endoftext|> three\r\n" * 9, "é" * 300)


def whole(tokenizer, texts):
    """What encoding each document in one piece gives."""
    ids = []
    for number, text in enumerate(texts):
        if number > 0 and tokenizer.end_of_text_id is not None:
            ids.append(tokenizer.end_of_text_id)
        ids += tokenizer.encode(text.replace("\r\n", "\n"))
    return ids


TOKENIZERS = [build_tokenizer(TokenizerConfig(kind), TEXTS) for kind in ("gpt2", "word", "char")]


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=lambda tokenizer: tokenizer.kind)
@pytest.mark.parametrize("shard_tokens", [1, 100, 10**9])
def test_chunks_and_shards_make_no_difference(tmp_path, tokenizer, shard_tokens):
    paths = documents(tmp_path, *TEXTS)
    paths[1].write_bytes(TEXTS[1].encode())
    store = tokenize(plan(paths, tokenizer, shard_tokens=shard_tokens), tmp_path / "store")
    assert store.tokens().tolist() == whole(tokenizer, TEXTS)
    assert store.n_documents == 3
    assert store.n_bytes == sum(len(text.replace("\r\n", "\n").encode()) for text in TEXTS)
    assert (len(store.shards) > 3) == (shard_tokens < 10**9)
    assert TokenStore.open(store.path) == store


def test_a_line_is_counted_from_the_beginning_of_the_file(tmp_path):
    text = "ab ba\r\nab\n" * 50 + "ab é ab\n" + "ab ba\n" * 50
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    for tokenizer, piece in ((CharTokenizer("ab \n"), "character"), (WordTokenizer(["ab", "ba"]), "word")):
        with pytest.raises(TokenizerError, match=f"unknown {piece} 'é' at line 101, column 4;"):
            tokenize(plan([path], tokenizer), tmp_path / "store")
    path.write_bytes(b"\xef\xbb\xbf" + b"ab " * 100 + "é".encode())
    with pytest.raises(TokenizerError, match="at line 1, column 301;"):
        tokenize(plan([path], CharTokenizer("ab ")), tmp_path / "store2")


def test_a_store_that_is_there_is_not_written_again(tmp_path):
    paths = documents(tmp_path, *TEXTS)
    store = tokenize(plan(paths, BPETokenizer(), shard_tokens=100), tmp_path / "store")
    before = {path: path.stat().st_mtime_ns for path in store.path.iterdir()}
    assert tokenize(plan(paths, BPETokenizer(), shard_tokens=100), tmp_path / "store") == store
    assert {path: path.stat().st_mtime_ns for path in store.path.iterdir()} == before
    with pytest.raises(DataError, match="already holds the ids of another text or tokenizer"):
        tokenize(plan(paths[:1], BPETokenizer()), tmp_path / "store")


@pytest.mark.parametrize("kept", range(5))
def test_going_on_after_any_shard_gives_the_same_bytes(tmp_path, kept):
    paths = documents(tmp_path, *TEXTS)
    store = tokenize(plan(paths, BPETokenizer(), shard_tokens=150), tmp_path / "store")
    assert len(store.shards) == 5
    good = content(store.path)
    for name in good:
        if not name < f"{kept:05}":
            (store.path / name).unlink()
    with pytest.raises(FileNotFoundError):
        TokenStore.open(store.path)
    begun = plan(paths, BPETokenizer(), shard_tokens=150)
    first = {path: path.stat().st_mtime_ns for path in store.path.iterdir()}
    assert len(first) == kept
    tokenize(begun, store.path)
    assert content(store.path) == good
    assert {path: path.stat().st_mtime_ns for path in first} == first, "they are kept, not written again"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


def exchange(path):
    other = path.with_name("00002.tokens")
    before = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(before)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    "damage", [flip, exchange, lambda path: path.write_bytes(path.read_bytes()[:-2]), lambda path: path.unlink()]
)
def test_what_is_damaged_is_written_again(tmp_path, damage, finished):
    paths = documents(tmp_path, *TEXTS)
    store = tokenize(plan(paths, BPETokenizer(), shard_tokens=150), tmp_path / "store")
    good = content(store.path)
    damage(store.path / "00001.tokens")
    if finished:
        with pytest.raises(DataError, match="tokenize"):
            TokenStore.open(store.path)
    else:
        (store.path / "store.json").unlink()
    first = (store.path / "00000.tokens").stat().st_mtime_ns
    assert tokenize(plan(paths, BPETokenizer(), shard_tokens=150), store.path) == store
    assert content(store.path) == good
    assert (store.path / "00000.tokens").stat().st_mtime_ns == first, "what is whole is kept"


@pytest.mark.parametrize("name", ["00000.tokens", "00001.tokens", "store.json"])
def test_a_file_of_somebody_elses_is_left_alone(tmp_path, name):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / name).write_text("{}")
    with pytest.raises(DataError, match="store"):
        tokenize(plan(documents(tmp_path, *TEXTS), BPETokenizer(), shard_tokens=150), tmp_path / "store")
    assert (tmp_path / "store" / name).read_text() == "{}"


def test_of_two_that_write_to_one_folder_the_later_one_gives_way(tmp_path):
    paths = documents(tmp_path, *TEXTS)

    class Overtaken(BPETokenizer):
        def encode_array(self, text):
            if not (tmp_path / "store").joinpath("00000.tokens").exists():
                tokenize(plan(paths, BPETokenizer(), shard_tokens=120, threads=1), tmp_path / "store")
            return super().encode_array(text)

    with pytest.raises(DataError, match="choose another"):
        tokenize(plan(paths, Overtaken(), shard_tokens=150, threads=1), tmp_path / "store")
    store = tokenize(plan(paths, BPETokenizer(), shard_tokens=120), tmp_path / "store")
    assert store.tokens().tolist() == whole(BPETokenizer(), TEXTS)


@pytest.mark.parametrize("change", [{"shard_tokens": 99}, {"tokenizer": CharTokenizer("ab")}, {"source_hash": "x"}])
def test_a_store_that_was_begun_otherwise_is_left_alone(tmp_path, change):
    paths = documents(tmp_path, *TEXTS)
    begun = {"tokenizer": BPETokenizer(), "shard_tokens": 150}
    store = tokenize(plan(paths, **begun), tmp_path / "store")
    (store.path / "store.json").unlink()
    before = content(store.path)
    with pytest.raises(DataError, match="remove the folder or choose another"):
        tokenize(plan(paths, **{**begun, **change}), store.path)
    assert content(store.path) == before


@pytest.mark.parametrize("resumed", [False, True])
def test_shards_of_a_text_that_changes_meanwhile_are_not_kept(tmp_path, resumed):
    paths = documents(tmp_path, *TEXTS)
    begun = plan(paths, BPETokenizer(), shard_tokens=150)
    if resumed:
        store = tokenize(begun, tmp_path / "store")
        for path in list(store.path.iterdir())[2:]:
            path.unlink(missing_ok=True)
        (store.path / "store.json").unlink(missing_ok=True)
    paths[2].write_text("another text", encoding="utf-8")
    with pytest.raises(DataError, match="changed while it was being read"):
        tokenize(begun, tmp_path / "store")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_killed_process_is_gone_on_with(tmp_path):
    """A real process, killed with SIGKILL at some moment of its work."""
    text = "".join(f"{number * 7919 % 1000003} is the number of word{number}\n" for number in range(250_000))
    (path,) = documents(tmp_path, text)
    words = [sys.executable, "-m", "llm", "tokenize", "--input", str(path), "--shard_tokens", "300000", "--threads=1"]
    words += ["--cache_dir", str(tmp_path / "cache"), "--output"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    process = subprocess.Popen([*words, str(tmp_path / "killed")], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "killed" / "00001.tokens").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {path.name for path in (tmp_path / "killed").iterdir()}
    assert "store.json" not in left
    with pytest.raises(FileNotFoundError):
        TokenStore.open(tmp_path / "killed")
    kept = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in ("00000.tokens", "00001.tokens")}
    for folder in ("killed", "whole"):
        subprocess.run([*words, str(tmp_path / folder)], env=environment, check=True, stdout=subprocess.DEVNULL)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")
    assert {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in kept} == kept
    assert TokenStore.open(tmp_path / "killed").tokens()[:1000].tolist() == BPETokenizer().encode(text[:9999])[:1000]


def test_memory_does_not_grow_with_the_file(tmp_path):
    def peak(n_bytes):
        (path,) = documents(tmp_path, "some words about nothing much, " * (n_bytes // 31))
        tokenizer = BPETokenizer()
        begun = plan([path], tokenizer, block_bytes=1 << 14)
        tracemalloc.start()
        tokenize(begun, tmp_path / f"store{n_bytes}")
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    few, many = peak(500_000), peak(8_000_000)
    assert many < 1.5 * few
    assert many < 1_500_000


# Which text it is


def test_a_large_files_hash_is_remembered_until_the_file_changes(tmp_path, cache, monkeypatch):
    path = tmp_path / "large.txt"
    path.write_bytes(b"x" * (1 << 20))
    read = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *arguments: read.append(1) or real(*arguments))

    def age(seconds):
        then = time.time() - seconds
        os.utime(path, (then, then))

    fresh = corpus_hash([path], cache)
    assert corpus_hash([path], cache) == fresh
    assert len(read) == 2, "a file that has just been written may change without showing it"
    age(100)
    assert [corpus_hash([path], cache) for _ in range(3)] == [fresh] * 3
    assert len(read) == 3
    path.write_bytes(b"y" * (1 << 20))
    age(50)
    assert corpus_hash([path], cache) == corpus_hash([path]) != fresh
    assert len(read) == 5
    for damaged in (json.loads((cache / "hashes.json").read_text()), {}, []):
        if damaged:
            damaged[str(path.resolve())][2:] = [7]
        (cache / "hashes.json").write_text(json.dumps(damaged))
        assert corpus_hash([path], cache) == corpus_hash([path]) != fresh
    (cache / "hashes.json").write_text("[damaged")
    assert corpus_hash([path], cache) == corpus_hash([path]) != fresh


def test_small_files_are_not_worth_remembering(tmp_path, cache):
    (path,) = documents(tmp_path, "small")
    os.utime(path, (1, 1))
    assert corpus_hash([path], cache) == corpus_hash([path])
    assert not cache.exists()
