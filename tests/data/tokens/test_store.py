import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data import BatchLoader, BatchOrder, SlidingWindows, TokenStore
from llm.data.tokens.counting import count_tokens
from llm.data.tokens.mapped import MappedTokens
from llm.data.tokens.shard import HEADER_SIZE, ShardHeader
from llm.data.tokens.store import open_raw
from llm.errors import DataError
from llm.tokenizers import BPETokenizer, CharTokenizer

GPT2 = BPETokenizer()


def write_store(folder, lengths, ids=None):
    """A store with shards of these lengths: of ids, or of zeros that take no room on the disk."""
    folder.mkdir()
    begin = 0
    for number, length in enumerate(lengths):
        header = ShardHeader("<u2", length, 1, 1, GPT2.fingerprint, "hash", "", (1, 0)).pack()
        with (folder / f"{number:05}.tokens").open("wb") as file:
            file.write(header)
            if ids is None:
                file.truncate(len(header) + 2 * length)
            else:
                file.write(np.array(ids[begin : begin + length], "<u2").tobytes())
        begin += length
    shards = tuple((f"{number:05}.tokens", length) for number, length in enumerate(lengths))
    store = TokenStore(folder, "<u2", sum(lengths), 1, 1, GPT2.to_dict(), GPT2.fingerprint, "hash", shards)
    store.write()
    return store


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6), st.data())
def test_shards_look_like_one_array(tmp_path_factory, lengths, data):
    n_tokens = sum(lengths)
    store = write_store(tmp_path_factory.mktemp("stores") / "store", lengths, range(n_tokens))
    assert TokenStore.open(store.path) == store
    start, stop = (data.draw(st.integers(0, n_tokens + 2)) for _ in range(2))
    array = np.arange(n_tokens)
    assert store.tokens(start, stop).tolist() == array[start:stop].tolist()
    tokens = store.tokens()
    assert isinstance(tokens, MappedTokens)
    part, expected = tokens[1:][: stop + 1], array[1:][: stop + 1]
    assert (part.tolist(), len(part), part.dtype) == (expected.tolist(), len(expected), np.uint16)
    assert part.astype(np.int64).tolist() == expected.tolist()
    if len(part):
        positions = data.draw(
            st.lists(st.integers(-len(part), len(part) - 1), min_size=2, max_size=8).filter(lambda x: len(x) % 2 == 0)
        )
        gathered = part[np.reshape(positions, (2, -1))]
        assert gathered.tolist() == expected[np.reshape(positions, (2, -1))].tolist()
        assert part[positions[0]] == expected[positions[0]]
    for outside in (len(part), -len(part) - 1):
        with pytest.raises(IndexError):
            part[[outside]]


@pytest.mark.parametrize("workers", [0, 1])
def test_windows_cross_the_borders_of_shards(tmp_path, workers):
    tokens = write_store(tmp_path / "store", [5, 3, 40, 1, 11], range(60)).tokens()
    windows = SlidingWindows(tokens, 6, 2)
    assert [inputs.tolist() for inputs, _ in windows] == [list(range(s, s + 6)) for s in range(0, 54, 2)]
    loader = BatchLoader(windows, BatchOrder(len(windows), 4), num_workers=workers)
    for inputs, targets, lengths, *_ in loader:
        assert lengths is None
        assert (targets == inputs + 1).all()


LARGE = """
import sys, time
from pathlib import Path
from llm.data.tokens.store import TokenStore
import torch
def resident():
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1e3
before = resident()
start = time.perf_counter()
tokens = TokenStore.open(sys.argv[1]).tokens(read_ahead=False)
opened = time.perf_counter() - start
from llm.data import BatchLoader, BatchOrder, SlidingWindows
windows = SlidingWindows(tokens, 256, 10)
order = BatchOrder(len(windows), 4)
loader = iter(BatchLoader(windows, order))
for _ in range(100):
    assert next(loader)[0].shape == (4, 256)
print(len(tokens), len(windows), opened, resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="asks Linux for the memory")
def test_ten_billion_tokens_open_at_once_and_take_no_memory(tmp_path):
    write_store(tmp_path / "store", [100_000_000] * 100)
    root = str(Path(__file__).parents[3])
    output = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path / "store")], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    n_tokens, n_windows, opened, more = map(float, output.split())
    assert (n_tokens, n_windows) == (10**10, 10**9 - 25)
    assert opened < 1
    assert more < 60  # MB; torch itself takes 230, or 700 where it is built for CUDA


# nanoGPT's files


def raw(folder, ids, name="train.bin"):
    path = folder / name
    np.array(ids, "<u2").tofile(path)
    return path


def test_a_raw_file_is_read_as_it_is(tmp_path):
    path = raw(tmp_path, [5, 50256, 7])
    store = open_raw(path, GPT2, "hash")
    assert store.tokens().tolist() == [5, 50256, 7]
    assert store.tokens(1, 2).tolist() == [50256]
    assert (store.n_tokens, store.source_hash, store.make_tokenizer()) == (3, "hash", GPT2)


@pytest.mark.parametrize(("length", "position"), [(10, 9), (200_000, 70_000), (10**7, 0), (10**7, 10**7 - 1)])
def test_an_id_outside_the_vocabulary_is_found(tmp_path, length, position):
    ids = np.zeros(length, "<u2")
    ids[position] = 50257
    with pytest.raises(DataError, match=rf"train\.bin': id 50257 at position {position:,} is outside .* 50,257"):
        open_raw(raw(tmp_path, ids), GPT2, "hash")
    with pytest.raises(DataError, match="id 50257"):
        open_raw(raw(tmp_path, ids), CharTokenizer("ab"), "hash")


@pytest.mark.parametrize("content", [b"", b"abc"])
def test_what_is_no_raw_file(tmp_path, content):
    path = tmp_path / "train.bin"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"no token ids of two bytes: it has {len(content)} bytes"):
        open_raw(path, GPT2, "hash")


def test_ids_of_two_bytes_are_too_short_for_a_large_vocabulary(tmp_path):
    tokenizer = CharTokenizer([chr(0x10000 + token_id) for token_id in range(2**16 + 1)])
    with pytest.raises(DataError, match="two bytes, too short for this tokenizer's 65,537; set"):
        open_raw(raw(tmp_path, [1, 2]), tokenizer, "hash")


def test_an_id_outside_the_vocabulary_cannot_be_counted():
    assert count_tokens(np.array([0, 2, 2], "<u2"), 3).tolist() == [1, 0, 2]
    with pytest.raises(DataError, match="token id 3 is outside the vocabulary of 3"):
        count_tokens(np.array([0, 3, 2], "<u2"), 3)


@pytest.mark.parametrize("changed", ["n_tokens", "n_documents", "after", "checksum"])
@pytest.mark.parametrize("value", ["3", None, [], [1, "2"], -1, 2.5, {}])
def test_a_header_of_other_values_is_no_traceback(tmp_path, changed, value):
    store = write_store(tmp_path / "store", [5], range(5))
    header = ShardHeader.read(tmp_path / "store" / "00000.tokens")
    content = dataclasses.replace(header, **{changed: value}).pack()
    (tmp_path / "store" / "00000.tokens").write_bytes(content + bytes(10))
    if (changed, value) != ("checksum", None):
        with pytest.raises(DataError, match=r"00000\.tokens"):
            TokenStore.open(store.path)


def test_headers_are_of_one_size():
    header = ShardHeader(
        "<u2", 10**15, 10**12, 10**18, "f" * 16, "a" * 64, f"{10**15} {2**40}", (10**9, 10**18), 2**32, 10**5
    )
    assert len(header.pack()) == HEADER_SIZE
