"""Metrics of a validation or test split."""

import math

import pytest
import torch

from llm.errors import DataError
from llm.training.loss import Prediction
from llm.training.metrics import SplitMetrics


def metrics_of(split, *batches):
    """The metrics over batches of (sum of losses, supervised tokens, correct predictions)."""
    metrics = SplitMetrics(split)
    metrics.begin(torch.device("cpu"))
    for batch in batches:
        metrics.update(Prediction(*(torch.tensor(part) for part in batch)))
    return metrics


def test_batches_count_by_their_supervised_tokens():
    found = metrics_of("validation", (6.0, 3, 1), (0.0, 0, 0), (2.0, 1, 1)).values(bytes_per_token=2.0)
    assert found["loss"] == pytest.approx(2)
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert found["token_accuracy"] == 0.5
    assert found["bits_per_byte"] == pytest.approx(1 / math.log(2))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_split_in_which_nothing_is_supervised_is_refused_by_name(split):
    with pytest.raises(DataError, match=f"^{split} has no supervised token, "):
        metrics_of(split, (0.0, 0, 0), (0.0, 0, 0)).values(None)


def test_a_loss_that_is_nan_is_infinite():
    assert metrics_of("validation", (math.nan, 3, 0)).values(None)["loss"] == math.inf
