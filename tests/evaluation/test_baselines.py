"""Naive Bayes and the most frequent label, against plain computations."""

from __future__ import annotations

import math

import pytest

from llm.evaluation.baselines import NaiveBayes, baselines, words

TEXTS = ["win a prize now", "call me now", "see you at home", "Win WIN money"]
LABELS = ["spam", "ham", "ham", "spam"]


def test_the_probabilities_are_those_of_the_textbook():
    found = NaiveBayes.fit(TEXTS, LABELS)
    assert found.labels == ["ham", "spam"]
    assert found.log_prior.tolist() == pytest.approx([math.log(0.5)] * 2)
    size = len({word for text in TEXTS for word in words(text)})
    for word, ham, spam in (("win", 0, 3), ("now", 1, 1), ("me", 1, 0)):
        at = found.vocabulary[word]
        assert found.log_likelihood[0, at] == pytest.approx(math.log((ham + 1) / (7 + size)))
        assert found.log_likelihood[1, at] == pytest.approx(math.log((spam + 1) / (7 + size)))


def test_words_that_were_not_counted_say_nothing():
    found = NaiveBayes.fit(TEXTS, LABELS)
    assert found.predict(["WIN!", "unheard of", "at home, me"]) == ["spam", "ham", "ham"]


def test_the_accuracy_of_both():
    held_out = ["win", "money", "home", "you", "call", "prize now now now me you"], ["spam"] * 2 + ["ham"] * 4
    found = baselines((TEXTS[:3], LABELS[:3]), held_out)
    assert found.majority == pytest.approx(4 / 6)
    predicted = NaiveBayes.fit(TEXTS[:3], LABELS[:3]).predict(held_out[0])
    assert found.naive_bayes == pytest.approx(sum(map(str.__eq__, predicted, held_out[1])) / 6)
    assert 0 < found.naive_bayes < 1
