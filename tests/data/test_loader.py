import numpy as np
import pytest

from llm.data import BatchLoader, BatchOrder, SlidingWindows


def test_the_loader_asks_for_its_position_at_the_first_batch():
    position = (0, 0)
    windows = SlidingWindows(np.arange(41), 4, 1)
    loader = BatchLoader(windows, BatchOrder(len(windows), 4), lambda: position)
    iterator = iter(loader)
    position = (2, 5)
    found = [inputs[:, 0].tolist() for inputs, *_ in iterator]
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
        seen.append([inputs[:, 0].tolist() for inputs, *_ in loader])
        assert seen[-1] == [[4 * index for index in batch] for batch in order]
    every = [start for batches in seen for batch in batches for start in batch]
    assert len(set(every)) == len(every) == (len(windows) // 16 - 2) * 16


def test_the_loader_can_resume_and_has_no_state_of_its_own():
    loader = BatchLoader(SlidingWindows(np.arange(9), 4, 1), BatchOrder(5, 2))
    assert loader.state_dict() == {}
    loader.load_state_dict({})
    assert len(loader) == 2
