import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.data import BatchLoader, BatchOrder, SlidingWindows, window_starts
from llm.data.order import KeyedPermutation
from llm.data.tokens.mapped import MappedTokens
from llm.errors import ConfigError


def first_ids(figures):
    return np.array(figures["gpt2_bpe"]["first_32_of_the_verdict"], np.uint16)


def batches(windows, batch_size, **options):
    order = BatchOrder(len(windows), batch_size, **{"shuffle": False, **options})
    return list(BatchLoader(windows, order))


# Windows


def test_first_batch_of_the_notes(figures):
    golden = figures["windows"]["first_batch_L4_stride2_batch2"]
    inputs, targets, _ = batches(SlidingWindows(first_ids(figures), 4, 2), 2)[0]
    assert inputs.tolist() == golden["inputs"]
    assert targets.tolist() == golden["targets"]
    assert inputs.dtype == targets.dtype == torch.int64


def test_first_windows_side_by_side(figures):
    golden = figures["windows"]["first_inputs_L4_stride4_batch8"]
    ids = first_ids(figures)
    inputs, _, _ = batches(SlidingWindows(np.append(ids, ids[:1]), 4, 4), 8)[0]
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


@pytest.fixture(scope="module")
def many_tokens(tmp_path_factory):
    """400,000 ids on disk."""
    path = tmp_path_factory.mktemp("tokens") / "ids"
    np.arange(400_000).astype(np.uint16).tofile(path)
    return MappedTokens((path,), (400_000,), np.dtype(np.uint16), 0, 0, 400_000)


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


# The shuffle


@given(st.integers(1, 300), st.integers(0, 2**64), st.integers(0, 1000))
def test_keyed_permutation_is_a_bijection(n, seed, epoch):
    assert sorted(KeyedPermutation(n, seed, epoch)(range(n)).tolist()) == list(range(n))


@given(st.integers(1, 10**12), st.data())
def test_keyed_permutation_needs_no_other_element(n, data):
    positions = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20))
    permutation = KeyedPermutation(n, 1, 2)
    together = permutation(positions).tolist()
    assert together == [permutation([position])[0] for position in positions]
    assert all(0 <= element < n for element in together)
    assert len(set(together)) == len(set(positions))


def test_shuffles_of_seeds_and_epochs_look_independent():
    n = 1000
    shuffles = [KeyedPermutation(n, seed, epoch)(range(n)) for seed in range(5) for epoch in range(4)]
    shuffles.append(np.arange(n))
    for first, second in itertools.combinations(shuffles, 2):
        assert (first == second).sum() < 10  # 1 is expected
        assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


# The order


sizes = st.fixed_dictionaries(
    {"n_rows": st.integers(0, 200), "batch_size": st.integers(1, 9), "seed": st.integers(0, 2**32)}
)


@given(sizes, st.booleans(), st.integers(0, 5))
def test_an_epoch_is_a_permutation(size, shuffle, epoch):
    order = BatchOrder(**size, shuffle=shuffle, drop_last=False)
    order.set_epoch(epoch)
    every = [index for batch in order for index in batch]
    assert sorted(every) == list(range(size["n_rows"]))
    if not shuffle:
        assert every == sorted(every)


@given(sizes, st.integers(0, 5))
def test_dropping_the_last_batch_leaves_out_only_what_does_not_fill_one(size, epoch):
    order = BatchOrder(**size)
    order.set_epoch(epoch)
    every = list(order)
    assert all(len(batch) == size["batch_size"] for batch in every)
    assert len(every) == len(order) == size["n_rows"] // size["batch_size"]
    distinct = {index for batch in every for index in batch}
    assert len(distinct) == len(every) * size["batch_size"]
    assert distinct <= set(range(size["n_rows"]))


@given(sizes, st.integers(0, 5), st.integers(0, 300), st.booleans())
def test_the_order_depends_on_seed_epoch_and_position_alone(size, epoch, position, drop_last):
    used, fresh = (BatchOrder(**size, drop_last=drop_last) for _ in range(2))
    list(itertools.islice(used, 3))
    used.set_epoch(epoch + 1)
    list(used)
    used.set_epoch(epoch)
    fresh.set_epoch(epoch)
    whole = list(fresh)
    assert list(used) == whole
    fresh.set_epoch(epoch, position)
    assert list(fresh) == whole[position:]
    assert len(fresh) == len(whole)


def test_every_epoch_and_seed_has_its_own_order():
    orders = []
    for seed, epoch in itertools.product(range(3), range(3)):
        order = BatchOrder(50, 5, seed=seed)
        order.set_epoch(epoch)
        orders.append(tuple(map(tuple, order)))
    assert len(set(orders)) == 9


@given(sizes, st.integers(1, 5), st.booleans(), st.booleans())
def test_ranks_share_an_epoch_without_overlap(size, world_size, drop_last, shuffle):
    ranks = [
        list(BatchOrder(**size, shuffle=shuffle, drop_last=drop_last, rank=rank, world_size=world_size))
        for rank in range(world_size)
    ]
    assert len({len(batches) for batches in ranks}) == 1
    every = [index for batches in ranks for batch in batches for index in batch]
    at_once = size["batch_size"] * world_size
    n_rows = size["n_rows"]
    if drop_last:
        assert len(every) == len(set(every)) == n_rows // at_once * at_once
        return
    assert set(every) == set(range(n_rows))
    left = n_rows % at_once
    repeated = world_size - left if 0 < left < world_size else 0
    assert len(every) == n_rows + repeated


@given(sizes, st.integers(1, 4))
def test_the_batch_of_all_ranks_is_that_of_one_large_process(size, world_size):
    ranks = [BatchOrder(**size, rank=rank, world_size=world_size) for rank in range(world_size)]
    alone = BatchOrder(size["n_rows"], size["batch_size"] * world_size, seed=size["seed"])
    assert [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == list(alone)


@given(st.integers(0, 2**32), st.integers(0, 9), st.integers(1, 4), st.integers(0, 10**9 // 64 - 40))
def test_a_billion_rows_are_shuffled_without_a_list_of_them(seed, epoch, world_size, position):
    n_rows, batch_size = 10**9, 16
    tracemalloc.start()
    ranks = []
    for rank in range(world_size):
        order = BatchOrder(n_rows, batch_size, seed=seed, rank=rank, world_size=world_size)
        order.set_epoch(epoch, position)
        ranks.append(list(itertools.islice(order, 30)))
    memory = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    every = [index for batches in ranks for batch in batches for index in batch]
    assert len(set(every)) == len(every) == 30 * batch_size * world_size
    assert all(0 <= index < n_rows for index in every)
    assert memory < 2_000_000
    order.set_epoch(epoch, position + 7)
    assert list(itertools.islice(order, 23)) == ranks[-1][7:]


# The loader


def test_the_loader_asks_for_its_position_at_the_first_batch():
    position = (0, 0)
    windows = SlidingWindows(np.arange(41), 4, 1)
    loader = BatchLoader(windows, BatchOrder(len(windows), 4), lambda: position)
    iterator = iter(loader)
    position = (2, 5)
    found = [inputs[:, 0].tolist() for inputs, _, _ in iterator]
    order = BatchOrder(len(windows), 4)
    order.set_epoch(2)
    assert found == list(order)[5:]
    assert len(found) == 4


def test_worker_processes_give_the_same_batches(many_tokens):
    windows = SlidingWindows(many_tokens[:500], 16, 8)
    alone = [batch[0].tolist() for batch in BatchLoader(windows, BatchOrder(len(windows), 8))]
    loader = BatchLoader(windows, BatchOrder(len(windows), 8), num_workers=2)
    assert len(alone) > 3
    for _ in range(2):
        assert [batch[0].tolist() for batch in loader] == alone


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_and_workers_share_an_epoch_without_overlap(many_tokens, workers):
    windows = SlidingWindows(many_tokens[:1200], 16, 4)
    seen = []
    for rank in range(2):
        order = BatchOrder(len(windows), 8, rank=rank, world_size=2)
        order.set_epoch(3, 2)
        loader = BatchLoader(windows, order, num_workers=workers)
        seen.append([inputs[:, 0].tolist() for inputs, _, _ in loader])
        assert seen[-1] == [[4 * index for index in batch] for batch in order]
    every = [start for batches in seen for batch in batches for start in batch]
    assert len(set(every)) == len(every) == (len(windows) // 16 - 2) * 16


def test_the_loader_can_resume_and_has_no_state_of_its_own():
    loader = BatchLoader(SlidingWindows(np.arange(9), 4, 1), BatchOrder(5, 2))
    assert loader.state_dict() == {}
    loader.load_state_dict({})
    assert len(loader) == 2
