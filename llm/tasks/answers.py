"""What a model answers: a few at each validation, all of them at a test."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import lightning as L

from llm.config import SamplingConfig
from llm.data.chat.showing import as_markdown
from llm.data.modules.instruct import InstructDataModule
from llm.errors import ConfigError, LLMError
from llm.evaluation.answers import Answer, answer_all, measure
from llm.runs.checkpointing import best_validation
from llm.runs.recording import records_of
from llm.runs.results import write_results
from llm.runs.run_folder import experiments_of
from llm.tasks.language import LanguageModel
from llm.training.throughput import side_work

log = logging.getLogger("llm")

_SHOWN = 8


_N_EXACT = "validation/answers"
"""Of what is measured at a validation: how many answers were exact, and of how many."""


class Answers(L.Callback):
    """Shows a sample with its supervised tokens before a run, lets the model answer, and measures the answers.

    Answers are greedy unless `temperature` says otherwise. Exact match and the fraction that the model ended itself are
    measured at each validation, on the same few samples; at a test also ROUGE-L, BLEU and chrF, on all. The end of a
    run says how many were exact at the validation with the lowest loss.

    Args:
        validation: samples that are answered at a validation; 0 for none.
        test: samples that are answered at a test. Default: all.
        max_new_tokens: the longest answer.
        temperature: see `model.sampling`.
        batch_size: samples that are answered at once.
        output: the file for the answers of a test, beside their references, as JSON lines. Default: `answers.jsonl`
            in the folder of the run.

    Raises:
        ConfigError: a setting is invalid.
    """

    def __init__(
        self,
        validation: int = 32,
        test: int | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        batch_size: int = 32,
        output: str | None = None,
    ) -> None:
        for name, value, least in (("validation", validation, 0), ("test", test, 1), ("batch_size", batch_size, 1)):
            if value is not None and value < least:
                raise ConfigError(f"answers.{name} must be at least {least}, got {value}")
        self.validation, self.test = validation, test
        self.sampling = SamplingConfig(max_new_tokens=max_new_tokens, temperature=temperature)
        self.batch_size = batch_size
        self.output = output
        self._has_failed = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Show one sample with its supervised tokens, on screen and for the loggers."""
        del pl_module
        data = _ours(trainer)
        self._has_failed = False
        if data is None or not trainer.is_global_zero:
            return
        example = data.show_sample()
        lost = "\n\n".join(data.losses("train").sentences(data.context_length))
        note = f"bold is supervised: {data.supervised_fraction:.1%} of all tokens\n\n{lost}"
        _write(trainer, "sample", f"{note}\n\n{as_markdown(example, data.tokenizer)}")

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Answer a few samples, and measure them."""
        if trainer.sanity_checking or self._has_failed or not self.validation:
            return
        amid_training = trainer.state.fn == "fit"
        try:
            with side_work(trainer):
                answers = self._answer(trainer, pl_module, "validation", self.validation)
        except LLMError as error:  # never the end of a run
            if not amid_training:
                raise
            self._has_failed = True
            log.warning(f"no answers in this run: {error}")
            return
        if answers:
            assert isinstance(pl_module, LanguageModel)
            pl_module.log_values({f"validation/{name}": value for name, value in measure(answers).items()})
            pl_module.measured[_N_EXACT] = [sum(answer.is_exact for answer in answers), len(answers)]
            _write(trainer, "answers", _table(answers[:_SHOWN]))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how many answers were exact, as they are where there is one right answer."""
        del pl_module
        data = _ours(trainer)
        where, measured = best_validation(trainer)
        if _N_EXACT not in measured or data is None or data.overfits or not trainer.is_global_zero:
            return
        log.info("exact:       %d of %d answers (%s)", *measured[_N_EXACT], where)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Answer all samples, measure them, and write them to a file.

        Raises:
            LLMError: they can't be answered, or the file can't be written.
        """
        answers = self._answer(trainer, pl_module, "test", self.test)
        if not answers:
            return
        pl_module.log_dict({f"test/{name}": value for name, value in measure(answers, overlap=True).items()})
        write_results(trainer, "answers", [answer.to_dict() for answer in answers], self.output, "answers.output")

    def _answer(self, trainer: L.Trainer, module: L.LightningModule, split: str, count: int | None) -> Sequence[Answer]:
        """The answers to the first samples of a split, or of the batches to overfit; each process gives the same."""
        data = _ours(trainer)
        assert isinstance(module, LanguageModel)
        if data is None or data.examples(split) is None:
            return []
        room = module.gpt.config.context_length
        sampling = dataclasses.replace(
            self.sampling, max_new_tokens=max(1, min(self.sampling.max_new_tokens, room // 2)), compile="never"
        )
        overfits = split == "validation" and data.overfits
        asked = (data.conversations_to_overfit() if overfits else data.conversations(split))[:count]
        return list(answer_all(module.gpt, data.maker, asked, sampling, self.batch_size))


def _ours(trainer: L.Trainer) -> InstructDataModule | None:
    data: Any = getattr(trainer, "datamodule", None)
    return data if isinstance(data, InstructDataModule) else None


def _write(trainer: L.Trainer, tag: str, text: str) -> None:
    """Markdown, for all loggers that take texts."""
    for experiment in experiments_of(trainer):
        experiment.add_text(tag, text, trainer.global_step)
    for record in records_of(trainer):
        record.text(tag, text, trainer.global_step)


def _table(answers: Sequence[Answer]) -> str:
    """As Markdown, a row each."""

    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ⏎ ")

    rows = (f"| {cell(a.question)} | {cell(a.reference)} | {cell(a.answer)} | {a.is_exact} |" for a in answers)
    return "\n".join(["| question | reference | answer | exact |", "|---|---|---|---|", *rows])
