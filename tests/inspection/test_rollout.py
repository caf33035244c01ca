"""Rollout is the product of the layers, with the residual path in it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.inspection import attention_rollout


@given(L=st.integers(1, 5), H=st.integers(1, 4), T=st.integers(1, 10), residual=st.booleans(), seed=st.integers(0, 9))
def test_rows_sum_to_one_and_the_future_stays_out(L, H, T, residual, seed):
    random = torch.Generator().manual_seed(seed)
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    maps = [torch.randn(H, T, T, generator=random).masked_fill(future, -torch.inf).softmax(-1) for _ in range(L)]
    found = attention_rollout(maps, residual)
    torch.testing.assert_close(found.sum(-1), torch.ones(T, dtype=torch.float64), atol=1e-6, rtol=0)
    assert found[future].eq(0).all()


def test_one_layer_is_half_itself_and_half_the_mean_of_its_heads():
    heads = torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    torch.testing.assert_close(
        attention_rollout([heads]), torch.tensor([[1.0, 0.0], [0.25, 0.75]], dtype=torch.float64)
    )


def test_later_layers_stand_on_the_left():
    first = torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0, 0, 1]]])  # the second token looks at the first
    second = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0, 1, 0]]])  # then the third looks at the second
    assert attention_rollout([first, second], residual=False)[2].tolist() == [1.0, 0.0, 0.0]
    assert attention_rollout([second, first], residual=False)[2].tolist() == [0.0, 1.0, 0.0]
    back = torch.tensor([[[1.0, 0, 0], [1, 0, 0], [0, 1, 0]]])  # each looks at the one before
    assert attention_rollout([back, back], residual=False)[2].tolist() == [1.0, 0.0, 0.0]  # two steps back


def test_there_must_be_a_layer():
    with pytest.raises(ValueError, match="no layer"):
        attention_rollout([])
