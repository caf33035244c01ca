import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.data.batch import IGNORED
from llm.data.collate import collate

rows = st.lists(st.lists(st.tuples(st.integers(0, 99), st.integers(-100, 99)), min_size=1, max_size=12), min_size=1)


@given(rows)
def test_rows_are_kept_and_what_follows_them_is_not_supervised(rows):
    pairs = [(np.array(row)[:, 0].astype("<u2"), np.array(row)[:, 1].astype("<i4")) for row in rows]
    inputs, targets, lengths, *_ = collate(pairs)
    assert inputs.dtype == targets.dtype == lengths.dtype == torch.int64
    assert inputs.shape == targets.shape == (len(rows), max(map(len, rows)))
    assert lengths.tolist() == [len(row) for row in rows]
    for number, row in enumerate(rows):
        assert inputs[number, : len(row)].tolist() == [token for token, _ in row]
        assert targets[number, : len(row)].tolist() == [target for _, target in row]
        assert (targets[number, len(row) :] == IGNORED).all()
