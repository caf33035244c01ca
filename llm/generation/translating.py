"""Translate texts with a trained network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llm.config.tasks import TRANSLATE
from llm.errors import TokenizerError
from llm.generation.searching import LENGTH_PENALTY, Hypothesis, refuse_unfit_source, search
from llm.model import EncoderDecoder
from llm.pretrained import load_of_task, read_source_tokenizer
from llm.tokenizers import Tokenizer
from llm.tokenizers.base import UnknownPieceError


class Translator(NamedTuple):
    """A network that translates, and its tokenizers."""

    model: EncoderDecoder
    tokenizer: Tokenizer
    source_tokenizer: Tokenizer

    def encode(self, text: str) -> list[int]:
        """A source as the encoder was trained on it: its token ids and the end token.

        Raises:
            TokenizerError: it is empty, or holds what is not in the vocabulary.
            ConfigError: it is longer than the context.
        """
        if not text.strip():
            raise TokenizerError("there is nothing to translate in an empty text; give a sentence")
        try:
            ids = self.source_tokenizer.encode(text.strip())
        except UnknownPieceError as error:
            is_shared = self.source_tokenizer.fingerprint == self.tokenizer.fingerprint
            raise error if is_shared else error.in_setting("data.source_tokenizer") from error
        source = [*ids, _end_of(self.source_tokenizer)]
        refuse_unfit_source(self.model, source)
        return source

    def translate(
        self,
        texts: Sequence[str],
        beam: int = 1,
        length_penalty: float = LENGTH_PENALTY,
        batch_size: int = 64,
    ) -> list[Translation]:
        """The translation of each text, in their order; see `search`.

        Raises:
            TokenizerError: a text is empty, or can't be encoded.
            ConfigError: an option is invalid, or a text is longer than the context.
            GenerationError: the network's logits are NaN or infinite.
        """
        end_id = _end_of(self.tokenizer)
        sources = [self.encode(text) for text in texts]
        found = search(self.model, sources, end_id, end_id, beam, length_penalty, batch_size)
        return [
            Translation(self.tokenizer.decode(hypothesis.ids), hypothesis, hypothesis.score(length_penalty))
            for hypothesis in found
        ]


class Translation(NamedTuple):
    """What a text was translated to."""

    text: str
    hypothesis: Hypothesis
    score: float

    def to_dict(self) -> dict[str, Any]:
        """What is written of it as JSON, beside the source."""
        hypothesis = self.hypothesis
        return {
            "translation": self.text,
            "log_probability": hypothesis.log_probability,
            "score": self.score,
            "ended": hypothesis.ended,
            "ids": hypothesis.ids,
        }


def load_translator(source: str | Path, device: str | torch.device = "cpu") -> Translator:
    """The network, in eval mode, and the tokenizers of a checkpoint of the task `translate`.

    Raises:
        CheckpointError: it can't be read, or is of another task.
    """
    loaded = load_of_task(source, TRANSLATE, EncoderDecoder, device)  # type: ignore[type-abstract]
    return Translator(*loaded, read_source_tokenizer(source))


def _end_of(tokenizer: Tokenizer) -> int:
    if tokenizer.end_of_text_id is None:
        raise TokenizerError("this tokenizer has no end token: it is of no network that translates")
    return tokenizer.end_of_text_id
