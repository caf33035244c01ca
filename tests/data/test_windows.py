import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.data import BatchLoader, BatchOrder, SlidingWindows, window_starts
from llm.errors import ConfigError


def first_ids(figures):
    return np.array(figures["gpt2_bpe"]["first_32_of_the_verdict"], np.uint16)


def batches(windows, batch_size, **options):
    order = BatchOrder(len(windows), batch_size, **{"shuffle": False, **options})
    return list(BatchLoader(windows, order))


# Windows


def test_first_batch_of_the_notes(figures):
    golden = figures["windows"]["first_batch_L4_stride2_batch2"]
    inputs, targets, *_ = batches(SlidingWindows(first_ids(figures), 4, 2), 2)[0]
    assert inputs.tolist() == golden["inputs"]
    assert targets.tolist() == golden["targets"]
    assert inputs.dtype == targets.dtype == torch.int64


def test_first_windows_side_by_side(figures):
    golden = figures["windows"]["first_inputs_L4_stride4_batch8"]
    ids = first_ids(figures)
    inputs, *_ = batches(SlidingWindows(np.append(ids, ids[:1]), 4, 4), 8)[0]
    assert inputs.tolist() == golden
    assert inputs.flatten().tolist() == ids.tolist()


@pytest.mark.parametrize("name", ["L4_stride1", "L4_stride2", "L4_stride4", "L256_stride128", "L256_stride256"])
def test_number_of_windows(figures, name):
    context_length, stride = (int(part.lstrip("Lstride")) for part in name.split("_"))
    counts = figures["windows"]["counts_for_5145_tokens"]
    assert len(counts) == 5
    assert len(SlidingWindows(np.zeros(5145, np.uint16), context_length, stride)) == counts[name]


def test_next_word_pairs(figures):
    golden = figures["next_word_pairs"]
    x, y = golden["x"], golden["y"]
    inputs, targets = SlidingWindows(np.array([*x, y[-1]]), 4, 1)[0]
    assert (inputs.tolist(), targets.tolist()) == (x, y)
    growing = [[inputs[: length + 1].tolist(), targets[length].item()] for length in range(4)]
    assert growing == golden["growing_contexts"]


@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 20))
def test_windows_follow_the_rule_of_the_notes(n_tokens, context_length, stride):
    ids = list(range(100, 100 + n_tokens))
    windows = SlidingWindows(np.array(ids), context_length, stride)
    starts = range(0, n_tokens - context_length, stride)
    assert list(window_starts(n_tokens, context_length, stride)) == list(starts)
    assert [(inputs.tolist(), targets.tolist()) for inputs, targets in windows] == [
        (ids[s : s + context_length], ids[s + 1 : s + context_length + 1]) for s in starts
    ]


def test_a_batch_is_its_windows_one_below_the_other():
    windows = SlidingWindows(np.arange(30, dtype=np.uint32), 5, 3)
    inputs, targets = windows.gather([4, 0, 4])[:2]
    assert inputs.tolist() == [windows[i][0].tolist() for i in (4, 0, 4)]
    assert targets.tolist() == [windows[i][1].tolist() for i in (4, 0, 4)]
    assert inputs.is_contiguous()
    assert targets.is_contiguous()


def test_no_window_past_the_end():
    windows = SlidingWindows(np.arange(10), 4, 2)
    assert len(windows) == 3
    with pytest.raises(IndexError):
        windows[3]


@pytest.mark.parametrize(("context_length", "stride"), [(0, 1), (-1, 1), (4, 0), (4, -2)])
def test_lengths_below_one_are_refused(context_length, stride):
    name, value = ("context_length", context_length) if context_length < 1 else ("stride", stride)
    with pytest.raises(ConfigError, match=f"{name} must be at least 1, got {value}"):
        SlidingWindows(np.arange(10), context_length, stride)


def test_memory_does_not_grow_with_the_number_of_windows(many_tokens):
    def peak(tokens):
        tracemalloc.start()
        windows = SlidingWindows(tokens, 16, 1)
        order = BatchOrder(len(windows), 4)
        for indices in itertools.islice(order, 200):
            windows.gather(indices)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    peak(many_tokens[:1000])  # what is made once and kept, as by imports
    few, many = peak(many_tokens[:4000]), peak(many_tokens)
    assert len(SlidingWindows(many_tokens, 16, 1)) == 399_984
    assert many < 2 * few
    assert many < 200_000


def test_a_worker_receives_where_the_tokens_are_not_the_tokens(many_tokens):
    windows = SlidingWindows(many_tokens, 16, 1)
    content = pickle.dumps(windows)
    assert len(content) < 5000
    again = pickle.loads(content)
    assert [part.tolist() for part in again[399_000]] == [part.tolist() for part in windows[399_000]]
    in_memory = pickle.loads(pickle.dumps(SlidingWindows(np.arange(9), 4, 1)))
    assert in_memory[4][1].tolist() == [5, 6, 7, 8]
