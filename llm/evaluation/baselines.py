"""What a classifier has to be better than: the most frequent label, and Naive Bayes on words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from llm.data import ClassifyDataModule

_WORD = re.compile(r"\w+")


class Baselines(NamedTuple):
    """The accuracy of two classifiers that need no network.

    Args:
        majority: of always saying the most frequent label of the training texts.
        naive_bayes: of multinomial Naive Bayes.
    """

    majority: float
    naive_bayes: float


def baselines_of(data: ClassifyDataModule, split: str) -> Baselines | None:
    """The accuracy of both on a split, counted from its training texts; None where the split has no texts."""
    if not data.rows[split]:
        return None
    train, held_out = (
        ([row.text for row in data.rows[name]], [row.label for row in data.rows[name]]) for name in ("train", split)
    )
    return baselines(train, held_out)


class NaiveBayes:
    """Multinomial Naive Bayes on words, in lower case, counts smoothed by one (Manning et al. 2008, section 13.2).

    Args:
        labels: the classes.
        vocabulary: the number of each word.
        log_prior: (N) of each label.
        log_likelihood: (N, W) of each word under each label.
    """

    def __init__(
        self, labels: Sequence[str], vocabulary: dict[str, int], log_prior: np.ndarray, log_likelihood: np.ndarray
    ) -> None:
        self.labels = list(labels)
        self.vocabulary = vocabulary
        self.log_prior = log_prior
        self.log_likelihood = log_likelihood

    @classmethod
    def fit(cls, texts: Sequence[str], labels: Sequence[str]) -> Self:
        """Count the words of each label.

        Args:
            texts: at least one.
            labels: one for each text.
        """
        names = sorted(set(labels))
        found = [(names.index(label), words(text)) for text, label in zip(texts, labels, strict=True)]
        vocabulary = {word: n for n, word in enumerate(sorted({word for _, text in found for word in text}))}
        counts = np.ones((len(names), len(vocabulary)))  # (N, W)
        for label, text in found:
            for word in text:
                counts[label, vocabulary[word]] += 1
        prior = np.bincount([label for label, _ in found], minlength=len(names)) / len(found)
        return cls(names, vocabulary, np.log(prior), np.log(counts / counts.sum(1, keepdims=True)))

    def predict(self, texts: Sequence[str]) -> list[str]:
        """The most probable label of each text; words that were not counted say nothing."""
        found = []
        for text in texts:
            known = [self.vocabulary[word] for word in words(text) if word in self.vocabulary]
            scores = self.log_prior + self.log_likelihood[:, known].sum(1)  # (N) + (N, words) -> (N)
            found.append(self.labels[int(scores.argmax())])
        return found


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def baselines(train: tuple[Sequence[str], Sequence[str]], held_out: tuple[Sequence[str], Sequence[str]]) -> Baselines:
    """The accuracy of both on held-out texts.

    Args:
        train: texts and their labels.
        held_out: texts and their labels, at least one.
    """
    texts, labels = held_out
    (majority, _), *_ = Counter(train[1]).most_common(1)
    predicted = NaiveBayes.fit(*train).predict(texts)
    n_correct = sum(found == label for found, label in zip(predicted, labels, strict=True))
    return Baselines(sum(label == majority for label in labels) / len(labels), n_correct / len(labels))
