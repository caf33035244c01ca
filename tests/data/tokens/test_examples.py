import logging
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data.batch import IGNORED
from llm.data.examples import Examples
from llm.data.tokens.examples import DESCRIPTION, Example, ExampleStore, open_or_build_examples
from llm.errors import DataError
from llm.tokenizers import MASK, BPETokenizer, CharTokenizer

LETTERS = CharTokenizer("abcdefgh")
SAMPLES = [Example([0, 1, 2], [IGNORED, 2, 3]), Example([7], [7]), Example([4, 5], [5, IGNORED])]


def build(folder, samples=SAMPLES, source_hash="source", tokenizer=LETTERS):
    return open_or_build_examples(lambda: iter(samples), source_hash, tokenizer, folder)


def contents(store):
    found = Examples(store)
    return [tuple(part.tolist() for part in found[number]) for number in range(len(found))]


def must_not_be_read():
    raise AssertionError("the cache holds them")


def test_examples_come_back_as_they_were(tmp_path):
    store = build(tmp_path)
    assert contents(store) == [(list(sample.inputs), list(sample.targets)) for sample in SAMPLES]
    assert (store.n_examples, store.n_tokens, store.n_supervised) == (3, 6, 4)
    assert Examples(store).lengths.tolist() == [3, 1, 2]


@given(st.lists(st.lists(st.integers(0, 7), min_size=1, max_size=30), min_size=1, max_size=30), st.data())
def test_any_examples_can_be_gathered_in_any_order(tmp_path_factory, rows, data):
    samples = [Example(row, [7 - token for token in row]) for row in rows]
    found = Examples(build(tmp_path_factory.mktemp("store"), samples))
    indices = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=9))
    batch = found.gather(indices)
    assert batch.lengths.tolist() == [len(rows[i]) for i in indices]
    for inputs, targets, length, index in zip(*batch[:3], indices, strict=True):
        assert inputs[:length].tolist() == rows[index]
        assert targets[:length].tolist() == [7 - token for token in rows[index]]


def test_next_tokens_are_shifted_by_one_and_supervised_where_it_is_said():
    sample = Example.next_tokens([5, 6, 7, 8], [True, False, True, True])
    assert (sample.inputs, sample.targets) == ([5, 6, 7], [IGNORED, 7, 8])
    with pytest.raises(ValueError, match="shorter"):
        Example.next_tokens([5, 6, 7], [True, True])


def test_a_store_is_made_once_for_a_source_and_a_tokenizer(tmp_path):
    store = build(tmp_path)
    again = open_or_build_examples(must_not_be_read, "source", LETTERS, tmp_path)
    assert again == store
    others = [build(tmp_path, source_hash="other"), build(tmp_path, tokenizer=CharTokenizer("hgfedcba"))]
    assert len({store.path, *(other.path for other in others)}) == 3
    assert {other.content_hash for other in others} == {store.content_hash}
    assert build(tmp_path, SAMPLES[:2], "fewer").content_hash != store.content_hash


def test_large_vocabularies_have_larger_ids(tmp_path):
    masked = BPETokenizer().with_special(MASK)
    assert build(tmp_path, [Example([50257], [0])], tokenizer=masked).dtype == "<u2"
    large = CharTokenizer([chr(0x10000 + i) for i in range(70_000)])
    store = build(tmp_path, [Example([69_999, 3], [IGNORED, 69_999])], tokenizer=large)
    assert store.dtype == "<u4"
    assert contents(store) == [([69_999, 3], [IGNORED, 69_999])]


@pytest.mark.parametrize("name", ["inputs", "targets", "ends", DESCRIPTION])
@pytest.mark.parametrize("damage", ["flipped", "short", "missing", "empty", "other"])
def test_a_damaged_store_is_found_and_made_again(tmp_path, caplog, name, damage):
    store = build(tmp_path)
    expected, file = contents(store), store.path / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        content[0] ^= 1
        file.write_bytes({"flipped": content, "short": content[:-1], "empty": b"", "other": b"null"}[damage])
    if (name, damage) != (DESCRIPTION, "missing"):
        with pytest.raises(DataError, match=r"damaged|no store of examples"):
            ExampleStore.open(store.path)
    with caplog.at_level(logging.WARNING):
        assert contents(build(tmp_path)) == expected
    assert ("building it again" in caplog.text) is ((name, damage) != (DESCRIPTION, "missing"))
    assert [path.name for path in tmp_path.iterdir()] == [store.path.name]


def test_what_is_cut_short_leaves_nothing(tmp_path):
    def broken():
        yield SAMPLES[0]
        raise RuntimeError("the source is gone")

    with pytest.raises(RuntimeError, match="gone"):
        open_or_build_examples(broken, "source", LETTERS, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "no examples"),
        ([SAMPLES[0], Example([], [])], "example 1 has 0 tokens and 0 targets"),
        ([Example([1, 2], [1])], "example 0 has 2 tokens and 1 targets"),
        ([Example([1, 8], [1, 1])], "example 0 has token ids from 1 to 8, outside the vocabulary of 8"),
        ([Example([-1], [1])], "example 0 has token ids from -1 to -1"),
        ([SAMPLES[0], Example([1, 2], [IGNORED, -1])], "example 1 has the target -1; a target is a token or a class"),
        ([Example([1], [2**31])], "example 0 has the target 2147483648"),
        ([Example([1], [-(2**31) - 100])], "example 0 has the target -2147483748"),
        ([Example([1], [2**64])], "example 0 has the target "),
        ([Example([2**64], [1])], "example 0 has token ids from "),
    ],
)
def test_bad_examples_are_named(tmp_path, samples, message):
    with pytest.raises(DataError, match=message):
        build(tmp_path, samples)
    assert list(tmp_path.iterdir()) == []


def test_the_largest_target_comes_back_as_it_was(tmp_path):
    assert contents(build(tmp_path, [Example([1, 2], [2**31 - 1, IGNORED])])) == [([1, 2], [2**31 - 1, IGNORED])]


@pytest.mark.parametrize("late", [False, True])
def test_what_the_source_can_not_read_is_not_blamed_on_the_cache(tmp_path, late):
    def broken():
        if late:
            yield SAMPLES[0]
        (tmp_path / "source.txt").read_text()

    with pytest.raises(FileNotFoundError, match=r"source\.txt"):
        open_or_build_examples(broken, "source", LETTERS, tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_cache_that_can_not_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another cache_dir"):
        build(tmp_path / "file")


BUILD = """
import sys, time
from llm.data.tokens.examples import Example, open_or_build_examples
from llm.tokenizers import CharTokenizer
def examples():
    for i in range(300):
        time.sleep(0.001)
        yield Example([i % 8] * (i % 5 + 1), [0] * (i % 5 + 1))
print(open_or_build_examples(examples, "source", CharTokenizer("abcdefgh"), sys.argv[1]).content_hash)
"""


def test_processes_that_build_at_once_get_the_same_store(tmp_path):
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    root = str(Path(__file__).parents[3])
    running = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    hashes = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(hashes) == len(list(tmp_path.iterdir())) == 1


KILLED = """
import os, sys
from llm.data.tokens.examples import Example, open_or_build_examples
from llm.tokenizers import CharTokenizer
def examples():
    yield Example([1], [2])
    os._exit(9)
open_or_build_examples(examples, "source", CharTokenizer("abcdefgh"), sys.argv[1])
"""


def test_what_a_killed_process_left_is_no_store_and_is_removed(tmp_path):
    root = str(Path(__file__).parents[3])
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert killed.returncode == 9
    (left,) = tmp_path.iterdir()
    assert left.name.endswith(".tmp")
    store = build(tmp_path)
    assert list(tmp_path.iterdir()) == [store.path]
    assert store.n_examples == 3


def test_examples_are_streamed_to_and_mapped_from_the_disk(tmp_path):
    def examples():
        for i in range(2000):
            yield Example([i % 8] * 1000, [0] * 1000)

    tracemalloc.start()
    store = open_or_build_examples(examples, "source", LETTERS, tmp_path)
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert store.n_tokens == 2_000_000  # 12 MB
    assert memory < 2_000_000
    found = Examples(store)
    content = pickle.dumps(found)
    assert len(content) < 100_000
    again = pickle.loads(content)
    assert again.gather([1999]).inputs[0, 0] == 7


def test_a_damaged_id_is_found_where_it_is_used(tmp_path):
    store = build(tmp_path)
    with pytest.raises(DataError, match="token id 7 is outside the vocabulary of 7"):
        Examples(store, vocab_size=7).gather([0, 1])
    assert Examples(store, numbers=np.array([2, 0]), vocab_size=7).gather([0]).inputs.tolist() == [[4, 5]]
