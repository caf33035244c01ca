"""Which labelled texts are to train on, to validate on and to test on."""

from __future__ import annotations

from llm.data.labelled import distinct, divide, undersample, without
from llm.data.reading.labelled import LabelledText, read_labelled
from llm.errors import ConfigError, DataError


class LabelledSplits:
    """The texts of each split: every text once, and in one split only; each corpus is read once.

    Args:
        corpus: what to train on.
        validation_corpus: what to validate on. Default: a part of `corpus`.
        test_corpus: what to test on. Default: a part of `corpus`.
        validation_fraction: fraction of the texts of each label that is validated on, where there is no corpus for it.
        test_fraction: fraction of the texts of each label that is tested on, where there is no corpus for it.
        seed: chooses which.
        text_column: the column of the text. Default: it is guessed.
        label_column: the column of the label. Default: it is guessed.
        undersampled: keep as many texts of each label as the rarest has, in all splits.

    Raises:
        ConfigError: a fraction or the seed is invalid.
        DataError: a corpus can't be read, or has no text that can be used.
    """

    def __init__(
        self,
        corpus: str | list[str],
        validation_corpus: str | list[str] | None,
        test_corpus: str | list[str] | None,
        *,
        validation_fraction: float,
        test_fraction: float,
        seed: int,
        text_column: str | None,
        label_column: str | None,
        undersampled: bool,
    ) -> None:
        if not (0 <= test_fraction < 1 and 0 <= validation_fraction < 1 and test_fraction + validation_fraction < 1):
            raise ConfigError(
                "validation_fraction and test_fraction must be at least 0 and together below 1, got "
                f"{validation_fraction} and {test_fraction}"
            )
        if seed < 0:
            raise ConfigError(f"split_seed must be at least 0, got {seed}")
        self._columns = text_column, label_column
        self.notes: list[str] = []
        """What was left out, a sentence each."""
        self.n_read = 0
        """Rows of all corpora."""
        self.repeated = 0
        """How many of them repeated another of their corpus."""
        rows, own = self._read(corpus), {}
        for split, found in (("validation", validation_corpus), ("test", test_corpus)):
            if found is not None:
                own[split] = self._read(found)
                if split == "test" and "validation" in own:
                    own["validation"] = without(own["validation"], own["test"])
        kept = without(rows, [row for of_split in own.values() for row in of_split])
        self.in_two_splits = len(rows) - len(kept)
        """Texts of the corpus that stand in another one, too, and are not trained on."""
        if undersampled and kept:
            kept = undersample(kept, seed)
            own = {split: undersample(of_split, seed) for split, of_split in own.items()}
        asked = {"validation": validation_fraction, "test": test_fraction}
        fractions = [0.0 if split in own else fraction for split, fraction in asked.items()]
        validation, test, train = divide(kept, fractions, seed)
        self.rows = {"train": train, "validation": own.get("validation", validation), "test": own.get("test", test)}
        """The texts of `train`, `validation` and `test`."""

    def _read(self, corpus: str | list[str]) -> list[LabelledText]:
        """The different texts of a corpus."""
        rows = read_labelled(corpus, *self._columns)
        found = distinct(rows)
        self.n_read += len(rows)
        self.repeated += found.repeated
        self.notes += found.notes
        if not found.rows:
            raise DataError(f"the corpus {str(corpus)[:80]!r} has no text that can be used: {'; '.join(found.notes)}")
        return found.rows
