"""The metrics of labels against their definitions."""

from __future__ import annotations

import pytest
import torch

from llm.training.class_metrics import ClassMetrics


def found(logits, targets, batch=3):
    metrics = ClassMetrics(logits.shape[1])
    metrics.begin(torch.device("cpu"))
    for part, wanted in zip(logits.split(batch), targets.split(batch), strict=True):
        metrics.update(part, wanted)
    return metrics, metrics.values()


def test_they_are_their_definitions_however_the_texts_are_batched():
    torch.manual_seed(0)
    logits, targets = torch.randn(40, 3), torch.randint(3, (40,))
    metrics, values = found(logits, targets)
    given = logits.argmax(1)
    table = torch.tensor([[int(((targets == t) & (given == g)).sum()) for g in range(3)] for t in range(3)])
    assert torch.equal(metrics.confusion, table)
    recall, precision = table.diagonal() / table.sum(1), table.diagonal() / table.sum(0)
    assert values["accuracy"] == pytest.approx(float(table.diagonal().sum() / 40))
    assert values["balanced_accuracy"] == pytest.approx(float(recall.mean()))
    assert values["f1_macro"] == pytest.approx(float((2 * recall * precision / (recall + precision)).mean()))
    assert "auroc" not in values
    assert found(logits, targets, batch=40)[1] == pytest.approx(values)


def test_auroc_is_the_chance_that_a_positive_ranks_higher():
    torch.manual_seed(1)
    logits, targets = torch.randn(30, 2), torch.randint(2, (30,))
    scores = logits.softmax(1)[:, 1]
    pairs = [(float(p > n)) for p in scores[targets == 1] for n in scores[targets == 0]]
    assert found(logits, targets)[1]["auroc"] == pytest.approx(sum(pairs) / len(pairs))
    assert "auroc" not in found(logits, torch.zeros_like(targets))[1], "there is no pair"


def test_on_rare_labels_one_answer_for_all_is_seen_through():
    logits = torch.tensor([[1.0, 0.0]]).repeat(20, 1)
    _, values = found(logits, torch.tensor([1] + [0] * 19))
    assert values["accuracy"] == pytest.approx(0.95)
    assert values["balanced_accuracy"] == pytest.approx(0.5)


def test_a_reset_forgets():
    metrics, first = found(torch.eye(2), torch.tensor([0, 1]))
    metrics.begin(torch.device("cpu"))
    metrics.update(torch.eye(2), torch.tensor([1, 0]))
    assert (first["accuracy"], metrics.values()["accuracy"]) == (1.0, 0.0)
