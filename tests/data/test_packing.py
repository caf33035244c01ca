import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.data.batch import IGNORED
from llm.data.examples import Examples
from llm.data.packing import PackedExamples, pack
from llm.data.tokens.examples import Example, open_or_build_examples
from llm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("abcdefgh")


@given(st.lists(st.integers(1, 20), max_size=60))
def test_every_sample_is_in_one_row_and_no_row_is_too_long(lengths):
    rows = pack(lengths, 20)
    assert sorted(sample for row in rows for sample in row) == list(range(len(lengths)))
    totals = [sum(lengths[sample] for sample in row) for row in rows]
    assert all(total <= 20 for total in totals)
    if len(rows) > 1:
        fullest_two = sorted(totals)[:2]
        assert sum(fullest_two) > 20, "two rows that fit into one would have been one"


def test_a_batch_says_which_document_each_token_is_of(tmp_path):
    samples = [
        Example([number] * length, [IGNORED] * (length - 1) + [number]) for number, length in enumerate((3, 4, 2, 5))
    ]
    store = open_or_build_examples(lambda: samples, "source", LETTERS, tmp_path)
    packed = PackedExamples(Examples(store), 7)
    assert len(packed) == 2
    batch = packed.gather(range(len(packed)))
    seen = []
    for row in range(len(batch.inputs)):
        length = int(batch.lengths[row])
        assert int(packed.lengths[row]) == length <= 7
        for document in batch.documents[row, :length].unique().tolist():
            here = batch.documents[row] == document
            (number,) = batch.inputs[row][here].unique().tolist()
            assert batch.targets[row][here].tolist() == list(samples[number].targets)
            seen.append(number)
        padding = batch.documents[row, length:]
        assert not set(padding.tolist()) & set(batch.documents[row, :length].tolist()), "padding is another document"
        assert (batch.targets[row, length:] == IGNORED).all()
    assert sorted(seen) == [0, 1, 2, 3]
    assert np.array_equal(packed[0][0], batch.inputs[0, : int(batch.lengths[0])].numpy())
    assert torch.equal(packed.gather([1], epoch=5).inputs[0], packed.gather([1]).inputs[0]), "the same in every epoch"
