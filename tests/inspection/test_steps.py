"""The small steps come to what the matrix form gives."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import GPTConfig
from llm.inspection.steps import (
    all_scores_by_loops,
    context_of_query,
    naive_softmax,
    scores_of_query,
    sum_normalize,
)
from llm.model import DotAttention


@given(T=st.integers(1, 6), C=st.integers(1, 5), seed=st.integers(0, 9))
def test_the_steps_are_dot_attention(T, C, seed):
    x = torch.randn(T, C, generator=torch.Generator().manual_seed(seed))
    attention = DotAttention(GPTConfig(n_embd=C, attention="dot", scale_scores=False, dropout=0.0))
    scores = all_scores_by_loops(x)
    torch.testing.assert_close(scores, x @ x.T)
    weights = naive_softmax(scores)
    torch.testing.assert_close(weights, torch.softmax(scores, dim=-1))
    context = torch.stack([context_of_query(x, naive_softmax(scores_of_query(x, query))) for query in range(T)])
    torch.testing.assert_close(context, attention(x[None])[0], rtol=1e-4, atol=1e-5)


def test_shares_of_the_sum():
    torch.testing.assert_close(sum_normalize(torch.tensor([1.0, 2.0, 5.0])), torch.tensor([0.125, 0.25, 0.625]))
