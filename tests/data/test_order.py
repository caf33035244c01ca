import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data import BatchOrder, LengthOrder
from llm.data.order import BalancedOrder, KeyedPermutation, SpreadOrder, padding_fraction

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


@given(st.integers(1, 300), st.none() | st.integers(1, 400), st.integers(1, 50))
def test_some_rows_are_spread_evenly_and_each_comes_once(n_rows, most, batch_size):
    order = SpreadOrder(n_rows, most, batch_size)
    rows = list(itertools.chain.from_iterable(order))
    n = n_rows if most is None else min(most, n_rows)
    assert len(rows) == n
    gaps = np.diff([-1, *rows, n_rows])
    assert all(1 <= gap <= -(-n_rows // n) + 1 for gap in gaps)
    if n == n_rows:
        assert rows == list(range(n_rows))


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


# By length


rows = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 50), min_size=1, max_size=120),
        "batch_size": st.integers(1, 9),
        "seed": st.integers(0, 2**32),
        "pool_batches": st.integers(1, 5),
    }
)


def epoch_of(order, epoch, start=0):
    order.set_epoch(epoch, start)
    return list(order)


@given(rows, st.integers(0, 5), st.booleans())
def test_every_example_once_an_epoch(row, epoch, shuffle):
    batches = epoch_of(LengthOrder(**row, shuffle=shuffle, drop_last=False), epoch)
    assert sorted(i for batch in batches for i in batch) == list(range(len(row["lengths"])))
    assert [len(batch) for batch in batches[:-1]] == [row["batch_size"]] * (len(batches) - 1)


@given(rows, st.integers(0, 5), st.integers(1, 4))
def test_examples_are_divided_among_ranks(row, epoch, world_size):
    ranks = [epoch_of(LengthOrder(**row, rank=rank, world_size=world_size), epoch) for rank in range(world_size)]
    alone = LengthOrder(**{**row, "batch_size": row["batch_size"] * world_size})
    assert [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)] == epoch_of(alone, epoch)
    every = [index for batches in ranks for batch in batches for index in batch]
    at_once = row["batch_size"] * world_size
    assert len(every) == len(set(every)) == len(row["lengths"]) // at_once * at_once


@given(rows, st.integers(0, 5), st.integers(0, 130), st.booleans())
def test_batches_by_length_depend_on_seed_epoch_and_position_alone(row, epoch, position, drop_last):
    used, fresh = (LengthOrder(**row, drop_last=drop_last) for _ in range(2))
    epoch_of(used, epoch + 1)
    whole = epoch_of(used, epoch)
    assert epoch_of(fresh, epoch, position) == whole[position:]
    assert len(fresh) == len(whole)
    assert [used.rows_of(epoch, batch) for batch in range(len(whole))] == whole


def test_every_epoch_and_seed_batches_others_together():
    lengths = np.arange(600) % 7 + 1
    seen = [epoch_of(LengthOrder(lengths, 5, seed=seed), epoch) for seed in range(3) for epoch in range(3)]
    assert len({str(batches) for batches in seen}) == 9
    together = [{frozenset(batch) for batch in batches} for batches in seen]
    assert all(not first & second for first, second in itertools.combinations(together, 2))


def test_no_length_is_skipped_more_often_than_others():
    lengths = np.arange(1, 12)  # of 11 examples, 3 are skipped in each epoch
    order = LengthOrder(lengths, 4)
    skipped = np.zeros(11)
    for epoch in range(400):
        skipped[sorted(set(range(11)) - {i for batch in epoch_of(order, epoch) for i in batch})] += 1
    assert skipped.sum() == 1200
    assert abs(skipped - 1200 / 11).max() < 50  # five standard deviations


def test_batches_come_in_no_order_of_length():
    lengths = np.random.default_rng(0).integers(1, 200, 4000)
    means = [lengths[batch].mean() for batch in LengthOrder(lengths, 8)]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.15


def test_little_of_a_batch_by_length_is_padding():
    lengths = np.random.default_rng(0).geometric(1 / 60, 5000)
    by_chance = padding_fraction(BatchOrder(len(lengths), 16), lengths)
    by_length = padding_fraction(LengthOrder(lengths, 16), lengths)
    assert by_chance > 0.6
    assert by_length < 0.1
    assert padding_fraction(LengthOrder(lengths, 16, shuffle=False), lengths) < by_length


@given(rows)
def test_padding_fraction_counts_what_a_batch_has_beyond_its_tokens(row):
    batches = list(LengthOrder(**row, drop_last=False))
    grids = [(len(batch), max(row["lengths"][i] for i in batch)) for batch in batches]
    tokens, positions = sum(row["lengths"]), sum(B * T for B, T in grids)
    assert padding_fraction(batches, row["lengths"]) == pytest.approx(1 - tokens / positions)
    assert padding_fraction([], row["lengths"]) == 0


# Balanced classes


@given(
    classes=st.lists(st.sampled_from("aaab"), min_size=4, max_size=40).filter(lambda found: len(set(found)) == 2),
    batch_size=st.integers(1, 5),
    epoch=st.integers(0, 3),
    world_size=st.integers(1, 2),
)
def test_a_balanced_epoch_has_as_many_of_each_class(classes, batch_size, epoch, world_size):
    lengths = np.arange(len(classes)) % 7 + 1
    options = {"batch_size": batch_size, "drop_last": False, "world_size": world_size, "seed": 3}
    orders = [BalancedOrder(classes, lengths, rank=rank, **options) for rank in range(world_size)]
    rows = orders[0].permutation(epoch)(np.arange(orders[0].n_rows)).tolist()
    most = max(classes.count(name) for name in "ab")
    for name in "ab":
        times = [rows.count(row) for row, found in enumerate(classes) if found == name]
        assert sum(times) == most
        assert max(times) - min(times) <= 1, "each comes as often as the others of its class, or once more"
    for order in orders:
        order.set_epoch(epoch)
    assert {row for order in orders for batch in order for row in batch} == set(rows)


def test_a_balanced_order_depends_on_seed_epoch_and_position_alone():
    classes = [0] * 30 + [1] * 7
    used, fresh = (BalancedOrder(classes, np.arange(37) % 9 + 1, batch_size=4, seed=5) for _ in range(2))
    used.set_epoch(1)
    first = list(used)
    used.set_epoch(2)
    fresh.set_epoch(2, 6)
    assert list(fresh) == list(used)[6:]
    assert list(used) != first
    assert len(fresh) == 60 // 4
