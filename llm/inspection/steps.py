"""Attention in small steps, as in the notes: slow, plain, and equal to the matrix form."""

from __future__ import annotations

import torch
from torch import Tensor


def scores_of_query(x: Tensor, query: int) -> Tensor:
    """The dot product of one input with every input, one by one: (T, C) -> (T)."""
    return torch.stack([torch.dot(x[query], key) for key in x])


def sum_normalize(scores: Tensor) -> Tensor:
    """Each score divided by their sum: the first way to weights that sum to 1."""
    return scores / scores.sum(dim=-1, keepdim=True)


def naive_softmax(scores: Tensor) -> Tensor:
    """Exponentials divided by their sum; overflows where the library's softmax does not."""
    return torch.exp(scores) / torch.exp(scores).sum(dim=-1, keepdim=True)


def context_of_query(x: Tensor, weights: Tensor) -> Tensor:
    """The inputs mixed by the weights, one by one: (T, C) and (T) -> (C)."""
    context = torch.zeros_like(x[0])
    for weight, value in zip(weights, x, strict=True):
        context = context + weight * value
    return context


def all_scores_by_loops(x: Tensor) -> Tensor:
    """The dot product of every input with every input, by two loops: (T, C) -> (T, T); equals `x @ x.T`."""
    return torch.stack([scores_of_query(x, query) for query in range(len(x))])
