"""Samples of text during training."""

from __future__ import annotations

import dataclasses
import logging
import textwrap
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch

from llm.config import SamplingConfig
from llm.errors import LLMError
from llm.generation import stream_text
from llm.inspection.tags import SAMPLES
from llm.inspection.writers import TensorBoard
from llm.model import GPT
from llm.model.eval_mode import eval_mode
from llm.runs.run_folder import goes_on_in_its_folder
from llm.tasks.language import LanguageModel
from llm.training.schedule import Every
from llm.training.throughput import side_work

log = logging.getLogger(__name__)

_TIMES_IN_A_RUN = 5  # of a run of seconds, each takes as long as several steps

_WRAP = textwrap.TextWrapper(100, replace_whitespace=False, drop_whitespace=False, expand_tabs=False)


class TextSamples(L.Callback):
    """Continues fixed prompts at the start, during training and at the end, for TensorBoard; the last also on screen.

    Before the last step a text ends where the context is full (or after half a context, where the prompt is longer than
    that): each token beyond has to read a whole window again, and a run would spend more time on texts than on steps.
    `model.sampling` says how; the seed is the same each time. A text that can't be continued is a
    warning, never the end of a run.

    Args:
        prompts: what to continue. Default: the first words of the training text.
        every: optimizer steps between samples; 0 for none at all. Default: about five times in a run.
    """

    def __init__(self, prompts: Sequence[str] | None = None, every: int | None = None) -> None:
        self.prompts = prompts
        self.every = Every(every, times=_TIMES_IN_A_RUN)
        self._encoded: dict[str, torch.Tensor] = {}
        self._last: tuple[int, str | None] | None = None  # the step of the last texts in full, and the first of them

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write samples of the untrained model."""
        assert isinstance(pl_module, LanguageModel)
        self._encoded = {} if self.every.never else self._encode(trainer, pl_module)
        if not goes_on_in_its_folder(trainer):
            self._write(trainer, pl_module)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        """Write samples, if they are due."""
        if self.every.is_due(trainer):
            assert isinstance(pl_module, LanguageModel)
            self._write(trainer, pl_module, in_full=trainer.global_step == pl_module.total_steps)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write samples of the trained model, and print one."""
        if self.every.is_due_at_end(trainer):
            self._write(trainer, pl_module, in_full=True)
        if self._encoded and trainer.is_global_zero:
            assert isinstance(pl_module, LanguageModel)
            if self._last is None or self._last[0] != trainer.global_step:
                text = _continue(pl_module, *next(iter(self._encoded.items())), pl_module.sampling)
            else:
                text = self._last[1]
            if text is not None:
                log.info(f"\nsample: {text}\n")

    def _encode(self, trainer: L.Trainer, pl_module: LanguageModel) -> dict[str, torch.Tensor]:
        tokenizer, datamodule = pl_module.tokenizer, getattr(trainer, "datamodule", None)
        if tokenizer is None:
            return {}
        prompts = self.prompts
        if prompts is None:
            prompts = [datamodule.sample_text()]  # type: ignore[union-attr]
        encoded = {}
        for prompt in prompts:
            try:
                ids = tokenizer.encode_prompt(prompt)
            except LLMError as error:
                log.warning(f"no sample for the prompt {prompt!r}: {error}")
                continue
            if ids:
                encoded[prompt] = torch.tensor(ids)
            else:
                log.warning("no sample for an empty prompt")
        return encoded

    def _write(self, trainer: L.Trainer, pl_module: L.LightningModule, in_full: bool = False) -> None:
        writer = TensorBoard.of(trainer, trainer.global_step)
        if not writer.takes_texts or not self._encoded or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, LanguageModel)
        sampling = pl_module.sampling
        with side_work(trainer):
            texts = []
            for prompt, ids in self._encoded.items():
                length = sampling.max_new_tokens if in_full else _new_tokens(sampling, len(ids), pl_module.gpt)
                texts.append(_continue(pl_module, prompt, ids, dataclasses.replace(sampling, max_new_tokens=length)))
            text = "\n\n".join(_code_block(text) for text in texts if text is not None)
            if text:
                note = "" if in_full else "; in full at the last step, before that no further than the context"
                writer.text(SAMPLES, f"{_settings(sampling)}{note}\n\n{text}")
        if in_full:
            self._last = trainer.global_step, texts[0]


def _new_tokens(sampling: SamplingConfig, n_prompt: int, gpt: GPT) -> int:
    """How many tokens are added before the last step: mostly those that keys and values are remembered for."""
    length = gpt.config.context_length
    return min(sampling.max_new_tokens, max(length - n_prompt, length // 2, 1))


def _continue(module: LanguageModel, prompt: str, ids: torch.Tensor, sampling: SamplingConfig) -> str | None:
    """A prompt and its continuation, joined as the tokenizer would; None, and a warning, if it can't be continued."""
    with eval_mode(module.gpt):  # once, and not at each token, which takes as long as what a small model computes
        try:
            return prompt + "".join(stream_text(module.gpt, module.tokenizer, ids, sampling))
        except LLMError as error:
            log.warning(f"no sample for the prompt {prompt!r}: {error}")
            return None


def _settings(sampling: SamplingConfig) -> str:
    """The settings that differ from the defaults, and the seed."""
    usual = dataclasses.asdict(SamplingConfig())
    settings = dataclasses.asdict(sampling).items()
    shown = ("temperature", "top_k", "max_new_tokens", "seed")
    return ", ".join(f"{name} {value}" for name, value in settings if name in shown or value != usual[name])


def _code_block(text: str) -> str:
    """Indented, so that Markdown shows it as it is; long lines are continued below, since TensorBoard wraps none."""
    lines = (part for line in text.splitlines() for part in _WRAP.wrap(line) or [""])
    return "\n".join(f"    {line}" for line in lines)
