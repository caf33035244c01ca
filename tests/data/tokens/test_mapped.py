import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data import TextDataModule
from llm.data.tokens.mapped import MappedTokens


def mapped(folder, lengths, read_ahead=True, offset=3):
    """Files that hold 0, 1, 2, ... after some other bytes."""
    folder.mkdir(exist_ok=True)
    paths, begin = [], 0
    for number, length in enumerate(lengths):
        paths.append(folder / f"{number}.ids")
        paths[-1].write_bytes(b"\xff" * offset + np.arange(begin, begin + length, dtype="<u2").tobytes())
        begin += length
    return MappedTokens(tuple(paths), tuple(lengths), np.dtype("<u2"), offset, 0, begin, read_ahead)


def flags_of(path):
    """What Linux notes of each place in memory where a file is mapped."""
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    return [(entry.split()[1], entry.split("VmFlags:")[1].split()) for entry in maps if str(path) in entry]


@given(st.lists(st.integers(1, 7), min_size=1, max_size=4), st.data())
def test_a_part_of_a_part_is_what_it_is_of_an_array(tmp_path_factory, lengths, data):
    tokens = mapped(tmp_path_factory.mktemp("ids"), lengths)
    array = np.arange(sum(lengths))
    for _ in range(2):
        start, stop = (data.draw(st.integers(-len(array) - 1, len(array) + 1)) for _ in range(2))
        tokens, array = tokens[start:stop], array[start:stop]
        assert tokens.tolist() == array.tolist()
        assert len(tokens) == len(array)


def test_other_steps_than_one_are_refused(tmp_path):
    with pytest.raises(IndexError, match="in steps of 1, not 2"):
        mapped(tmp_path, [4])[::2]


def test_pickled_it_is_where_the_files_are(tmp_path):
    tokens = mapped(tmp_path, [1000, 2000], read_ahead=False)[10:]
    tokens[np.arange(2000)]
    content = pickle.dumps(tokens)
    assert len(content) < 2000
    again = pickle.loads(content)
    assert again.tolist() == tokens.tolist()
    assert not again.read_ahead


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what it was told")
@pytest.mark.parametrize("read_ahead", [True, False])
def test_files_are_mapped_once_for_reading_and_read_ahead_only_if_that_helps(tmp_path, read_ahead):
    tokens = mapped(tmp_path, [100, 100], read_ahead)
    part = tokens[50:]
    assert flags_of(tmp_path) == []
    assert part[[0, 80]].tolist() == [50, 130]
    assert tokens.tolist() == list(range(200))
    found = flags_of(tmp_path)
    assert len(found) == 2
    for permissions, flags in found:
        assert permissions.startswith("r--")
        assert ("rr" in flags) is not read_ahead  # "rr": random read


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="asks Linux what it was told")
@pytest.mark.parametrize("shuffle", [True, False])
def test_a_shuffled_run_reads_nothing_ahead(tmp_path, shuffle):
    (tmp_path / "corpus.txt").write_text("a cat sat on a mat. " * 40)
    data = TextDataModule(
        str(tmp_path / "corpus.txt"), context_length=8, batch_size=2, shuffle=shuffle, cache_dir=str(tmp_path / "cache")
    )
    loader = data.train_dataloader()
    next(iter(loader))
    assert ["rr" in flags for _, flags in flags_of(os.path.realpath(tmp_path))] == [shuffle]
