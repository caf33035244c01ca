"""Writes the neighbours of some words to the loggers while word vectors are trained, and the vectors at the end."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch

from llm.errors import ConfigError
from llm.inspection import tags
from llm.inspection.apart import Apart
from llm.inspection.embeddings import neighbours_table, word_ids
from llm.inspection.ticks import markdown, tick_labels
from llm.inspection.writers import TensorBoard
from llm.runs.run_folder import experiments_of, goes_on_in_its_folder
from llm.tasks.word_vectors import WordVectorsModule
from llm.training.schedule import Every

_WORDS = 8
_SHORTEST = 4
"""Letters of a word worth a look, unless others are asked for."""


class WordVectorsInspection(L.Callback):
    """Shows what word vectors have learned: neighbours at the start, while training and at the end, and a projector.

    It computes apart from training: the run is bit for bit the same with it or without it. What goes wrong in it is a
    warning, never the end of a run.

    Args:
        words: whose neighbours to look for. Default: frequent words of at least four letters.
        every: optimizer steps between looks; 0 for none at all. Default: about ten times in a run.
        projector_tokens: how many words the projector shows: the most frequent ones of the training text.

    Raises:
        ConfigError: a setting that can't be.
    """

    def __init__(self, words: list[str] | None = None, every: int | None = None, projector_tokens: int = 500) -> None:
        if projector_tokens < 1:
            raise ConfigError(f"inspect.projector_tokens must be at least 1, got {projector_tokens}")
        self.words = words
        self.every = Every(every)
        self.projector_tokens = projector_tokens
        self._ids: list[int] = []
        self._others: list[str] = []
        self._apart = Apart()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the words, and look at the vectors that the run begins with."""
        self._ids, self._others, self._apart = [], [], Apart()
        if self.every.never or not trainer.is_global_zero or not TensorBoard.of(trainer, 0).takes_texts:
            return
        module = _ours(pl_module)
        self._apart.do("neighbours", module, lambda: self._choose_words(trainer, module))
        if not goes_on_in_its_folder(trainer):  # there, they were looked at
            self._look(trainer, module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Look, when it is time to."""
        if self.every.is_due(trainer):
            self._look(trainer, _ours(pl_module))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Look at the trained vectors, and write the projector."""
        if not self._ids or not trainer.is_global_zero:
            return
        module = _ours(pl_module)
        if self.every.is_due_at_end(trainer):
            self._look(trainer, module)
        self._apart.do("projector", module, lambda: self._write_projector(trainer, module))

    def _choose_words(self, trainer: L.Trainer, module: WordVectorsModule) -> None:
        tokenizer = module.tokenizer
        if tokenizer is None:
            raise ConfigError("this run has no tokenizer, so that its vectors have no names")
        specials = set(tokenizer.special_ids.values())
        if self.words:
            found = {word: set(word_ids(tokenizer, [word])[0]) - specials for word in self.words}
            self._ids = [token for ids in found.values() for token in ids]
            self._others = [word for word, ids in found.items() if not ids]
            if not self._ids:
                raise ConfigError(f"no word of inspect.words is in the vocabulary: {', '.join(self._others)}")
            return
        frequent = torch.from_numpy(_counts(trainer)).argsort(descending=True, stable=True).tolist()
        names = ((token, tokenizer.token_bytes(token).decode("utf-8", "ignore").strip()) for token in frequent)
        long = [token for token, name in names if len(name) >= _SHORTEST and name.isalpha() and token not in specials]
        self._ids = long[:_WORDS]

    def _look(self, trainer: L.Trainer, module: WordVectorsModule) -> None:
        def write() -> None:
            table = module.words.token.weight.detach()
            among = torch.from_numpy(_counts(trainer)).nonzero()[:, 0]  # rare words and special tokens are not trained
            text = neighbours_table(table, module.tokenizer, self._ids, among)
            if self._others:
                text += f"\n\nnot in this vocabulary: {markdown(', '.join(self._others))}"
            TensorBoard.of(trainer, trainer.global_step).text(tags.NEIGHBOURS, text)

        if self._ids and trainer.is_global_zero:
            self._apart.do("neighbours", module, write)

    def _write_projector(self, trainer: L.Trainer, module: WordVectorsModule) -> None:
        table, counts = module.words.token.weight.detach().cpu(), torch.from_numpy(_counts(trainer))
        most = min(self.projector_tokens, int(counts.count_nonzero()))
        ids = counts.argsort(descending=True, stable=True)[:most].sort().values
        labels = tick_labels(module.tokenizer, ids.tolist())
        tag = f"word-vectors-{most}-most-frequent-of-{len(table)}"  # it becomes the name of a folder
        for experiment in experiments_of(trainer):
            experiment.add_embedding(table[ids], labels, tag=tag, global_step=trainer.global_step)


def _counts(trainer: L.Trainer) -> Any:
    """(V) how often each word occurs in the training text."""
    return trainer.datamodule.counts  # type: ignore[attr-defined]


def _ours(module: L.LightningModule) -> WordVectorsModule:
    assert isinstance(module, WordVectorsModule)
    return module
