import pytest

from llm.data.held_out import held_out_rows


@pytest.mark.parametrize(
    ("n", "fraction", "kept"), [(0, 0.1, 0), (1, 0.05, 0), (2, 0.05, 1), (2, 0.9, 1), (90, 0.1, 9), (9, 0, 0)]
)
def test_some_are_held_out_and_never_all(n, fraction, kept):
    found = held_out_rows(n, fraction).tolist()
    assert len(found) == kept
    assert found == sorted(set(found) & set(range(n)))
