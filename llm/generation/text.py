"""Text in, text out: generation with a tokenizer, which is what stop strings need."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from llm.config import SamplingConfig
from llm.generation.decoding import generate_rows
from llm.model import GPT
from llm.tokenizers import Tokenizer


class Continuation(NamedTuple):
    """How one prompt goes on."""

    prompt: int
    """Which prompt it continues, from 0."""
    sample: int
    """Which of its samples this is, from 0."""
    text: str
    """What follows the prompt, up to a stop string."""
    ids: list[int]
    """The token ids that were generated; with a stop string, up to the one that completed it."""
    end: Literal["length", "stop"]
    """Why it ends there: it is as long as it may be, or it came to a stop."""

    def to_dict(self) -> dict[str, Any]:
        """What is written of it as JSON, beside the prompt."""
        return {"sample": self.sample, "continuation": self.text, "tokens": len(self.ids), "end": self.end}


def continue_texts(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[Tensor | str], sampling: SamplingConfig, batch_size: int = 8
) -> Iterator[Continuation]:
    """Continue prompts in batches, and yield each continuation when its batch is done, in order.

    Args:
        model: any GPT; only with causal attention can its text make sense.
        tokenizer: the model's; its end of text, or another of its `end_ids`, ends a continuation.
        prompts: texts, or (T,) token ids each.
        sampling: how to choose, how many tokens, how many samples of each prompt, and when to stop.
        batch_size: prompts in a batch.

    Raises:
        ConfigError: a prompt is empty or holds ids outside the vocabulary.
        GenerationError: the model's logits are NaN or infinite.
    """
    n = sampling.n_samples
    ids = [_ids(tokenizer, prompt) for prompt in prompts]
    for start in range(0, len(ids), batch_size):
        batch = ids[start : start + batch_size]
        texts = [GrowingText(tokenizer, prompt.tolist(), sampling.stop) for prompt in batch for _ in range(n)]
        for _ in _steps(model, tokenizer, batch, texts, sampling):
            pass
        for row, text in enumerate(texts):
            text.finish()
            is_whole = len(text.ids) == sampling.max_new_tokens and not text.is_stopped
            yield Continuation(start + row // n, row % n, text.text, text.ids, "length" if is_whole else "stop")


def stream_text(model: GPT, tokenizer: Tokenizer, prompt: Tensor | str, sampling: SamplingConfig) -> Iterator[str]:
    """Continue one prompt and give the text as it comes: together, the first sample of `continue_texts`.

    What may be the beginning of a stop string, or of a character, is held back until that is known.
    """
    ids = _ids(tokenizer, prompt)
    text = GrowingText(tokenizer, ids.tolist(), sampling.stop)
    given = 0
    for _ in _steps(model, tokenizer, [ids], [text], replace(sampling, n_samples=1)):
        settled = text.n_settled
        yield text.text[given:settled]
        given = settled
    text.finish()
    yield text.text[given:]


def _ids(tokenizer: Tokenizer, prompt: Tensor | str) -> Tensor:
    return torch.tensor(tokenizer.encode_prompt(prompt), dtype=torch.long) if isinstance(prompt, str) else prompt


def _steps(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[Tensor], texts: Sequence[GrowingText], sampling: SamplingConfig
) -> Iterator[dict[int, int]]:
    """The steps of a generation, each row ending where its text does."""

    def is_ended(row: int, token_id: int) -> bool:
        return texts[row].add(token_id)

    sampling = replace(sampling, stop_ids=(*sampling.stop_ids, *tokenizer.end_ids))
    return generate_rows(model, prompts, sampling, is_ended=is_ended)


class GrowingText:
    """The text of one row as its tokens come.

    Args:
        tokenizer: sees the prompt too, so that it knows what the continuation joins on to.
        prompt: its token ids.
        stop: strings at which it ends.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: list[int], stop: Sequence[str]) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.is_stopped = False
        self._stop = stop
        self._waiting: deque[int | None] = deque(prompt)
        self._pieces = tokenizer.stream(iter(self._waiting.popleft, None))  # a piece a token; None ends it
        for _ in range(len(prompt)):
            next(self._pieces)

    def add(self, token_id: int) -> bool:
        """Add a token; whether the text has come to a stop."""
        self.ids.append(token_id)
        self._waiting.append(token_id)
        self._grow(next(self._pieces))
        return self.is_stopped

    def finish(self) -> None:
        """No token comes any more: half a character that was held back is given."""
        self._waiting.append(None)
        self._grow("".join(self._pieces))

    def _grow(self, piece: str) -> None:
        if self.is_stopped:
            return
        # A stop string may have begun in the text so far, at the earliest with all but its last character.
        start = max(0, len(self.text) - max(map(len, self._stop), default=1) + 1)
        self.text += piece
        places = [place for stop in self._stop if (place := self.text.find(stop, start)) >= 0]
        if places:
            self.text, self.is_stopped = self.text[: min(places)], True

    @property
    def n_settled(self) -> int:
        """How many characters are sure to stay: all but an end with which a stop string may begin."""
        if self.is_stopped:
            return len(self.text)
        begun = (n for stop in self._stop for n in range(1, len(stop)) if self.text.endswith(stop[:n]))
        return len(self.text) - max(begun, default=0)
