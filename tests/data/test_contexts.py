"""What is drawn for word vectors: a function of seed, epoch and row, with word2vec's probabilities."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.data.batch import IGNORED
from llm.data.contexts import ContextRows, WordSampling, contexts_of
from llm.data.order import keyed_uniforms
from llm.data.windows import SlidingWindows
from llm.errors import DataError

COUNTS = np.array([600, 250, 100, 40, 9, 1, 0])


def sample(ids, rows, epoch=0, seed=1, **options):
    return WordSampling(COUNTS, **{"window": 3, "sample": 0.05, "n_noise": 8, "seed": seed, **options})(
        np.asarray(ids), rows, epoch
    )


@settings(max_examples=30)
@given(seed=st.integers(0, 99), epoch=st.integers(0, 9), rows=st.lists(st.integers(0, 10**9), min_size=2, max_size=5))
def test_what_is_drawn_for_a_row_does_not_depend_on_the_others(seed, epoch, rows):
    ids = np.random.default_rng(0).integers(0, 6, (len(rows), 20))
    together = sample(ids, rows, epoch, seed)
    for place, row in enumerate(rows):
        alone = sample(ids[place : place + 1], [row], epoch, seed)
        length = int(alone.lengths)
        assert length == int(together.lengths[place])
        for field in ("inputs", "targets", "sizes"):
            found = getattr(together, field)[place, :length], getattr(alone, field)[0, :length]
            assert torch.equal(*found), field
        before, width = int(together.sizes[:place].sum()), together.inputs.shape[1]
        others = together.others[before : before + int(alone.sizes.sum())]
        assert torch.equal(others - place * width, alone.others)
        assert torch.equal(together.noise[place], alone.noise[0])


@settings(max_examples=50)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 99))
def test_contexts_are_those_of_a_loop(lengths, seed):
    lengths = np.array(lengths)
    T = max(1, lengths.max())
    reach = np.random.default_rng(seed).integers(1, 12, (len(lengths), T))
    others, sizes = contexts_of(reach, lengths)
    expected = [
        [b * T + j for j in range(lengths[b]) if i < lengths[b] and 0 < abs(i - j) <= reach[b, i]]
        for b in range(len(lengths))
        for i in range(T)
    ]
    assert others.tolist() == [place for places in expected for place in places]
    assert sizes.ravel().tolist() == list(map(len, expected))


def test_epochs_and_seeds_draw_anew():
    ids = np.random.default_rng(0).integers(0, 3, (4, 50))
    first, again = sample(ids, range(4)), sample(ids, range(4))
    assert all(map(torch.equal, first, again))
    for other in (sample(ids, range(4), epoch=1), sample(ids, range(4), seed=2)):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.lengths, other.lengths)


def test_words_are_kept_noise_is_drawn_and_contexts_are_wide_as_in_word2vec():
    n = 40_000
    frequencies = COUNTS[:6] / COUNTS.sum()
    for word, frequency in enumerate(frequencies):
        batch = sample(np.full((1, n), word), [word])
        expected = min(1.0, (0.05 / frequency) ** 0.5 + 0.05 / frequency)
        assert int(batch.lengths) / n == pytest.approx(expected, abs=0.01)
    batch = sample(np.zeros((1, n), int), [0], sample=0, n_noise=n)
    assert int(batch.lengths) == n, "0 keeps all"
    noise = torch.bincount(batch.noise[0], minlength=7) / n
    expected = COUNTS**0.75 / (COUNTS**0.75).sum()
    np.testing.assert_allclose(noise.numpy(), expected, atol=0.01)
    assert noise[6] == 0
    np.testing.assert_allclose(torch.bincount(batch.sizes[0, 3:-3]).numpy()[2::2] / n, [1 / 3] * 3, atol=0.01)


def test_words_that_do_not_count_are_dropped_before_there_are_contexts():
    batch = sample([[5, 6, 4, 6, 6, 5]], [0], sample=0)
    assert batch.inputs.tolist() == [[5, 4, 5]]
    batch = sample([[6, 6, 6], [5, 6, 6]], [0, 1], sample=0)
    assert batch.lengths.tolist() == [0, 1]
    assert batch.targets.tolist() == [[IGNORED], [5]]
    with pytest.raises(DataError, match="min_count"):
        WordSampling(np.zeros(3, int), 2, 0.1, 4, 0)


def test_rows_are_those_of_the_windows():
    tokens = np.arange(40).astype(np.uint16) % 6
    windows = SlidingWindows(tokens, 8, 8)
    rows = ContextRows(windows, WordSampling(COUNTS, 2, 0, 4, 0))
    assert len(rows) == len(windows)
    assert list(rows.starts) == list(windows.starts)
    assert torch.equal(rows.gather([2, 0], 0).inputs, windows.gather([2, 0]).inputs)


def test_uniform_numbers_are_uniform():
    numbers = keyed_uniforms(3, 1, 0, np.arange(2000), 50)
    assert numbers.shape == (2000, 50)
    assert 0 <= numbers.min() <= numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.005)
    np.testing.assert_allclose(np.histogram(numbers, 20)[0] / numbers.size, 1 / 20, atol=0.003)
    flat = numbers.ravel()
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(numbers[:-1].ravel(), numbers[1:].ravel())[0, 1]) < 0.01
    assert abs(np.corrcoef(flat, keyed_uniforms(3, 1, 1, np.arange(2000), 50).ravel())[0, 1]) < 0.01
