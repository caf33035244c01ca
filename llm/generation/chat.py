"""A conversation with a model: its history, cut at whole turns, and its answers as they come."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import torch

from llm.config import SamplingConfig
from llm.data.chat.messages import ASSISTANT, SYSTEM, USER, Message
from llm.data.chat.samples import SampleMaker
from llm.data.chat.templates import ChatTemplate
from llm.generation.text import stream_text
from llm.model import GPT
from llm.tokenizers import Tokenizer


class Chat:
    """A conversation, in which the model gives an answer to each message.

    The prompt of an answer is encoded as samples are in training, so that the model sees what it has learned from.
    Where the conversation is longer than the context, the oldest turns are left out, question and answer together.

    Args:
        model: any GPT.
        tokenizer: the model's, with the special tokens of the template.
        template: how a conversation becomes text.
        sampling: how to choose tokens, and how long an answer may be: no longer than half the context.
        system: a message before all others.

    Raises:
        ConfigError: the template does not end an answer with a special token.
    """

    def __init__(
        self,
        model: GPT,
        tokenizer: Tokenizer,
        template: ChatTemplate,
        sampling: SamplingConfig,
        system: str | None = None,
    ) -> None:
        self.model = model
        self.maker = SampleMaker(template, tokenizer, model.config.context_length)
        self.end_id = template.end_of_answer(tokenizer)
        ids = tokenizer.special_ids
        most = max(1, model.config.context_length // 2)
        self.sampling = dataclasses.replace(
            sampling,
            n_samples=1,
            max_new_tokens=min(sampling.max_new_tokens, most),
            # A model that begins another message has ended its own.
            stop_ids=tuple({*sampling.stop_ids, self.end_id, *(ids[name] for name in template.special_tokens)}),
        )
        self.system = system
        self.turns: list[tuple[Message, Message]] = []
        self.n_forgotten = 0
        """Turns of the history that the last prompt had no room for."""
        self.is_cut = False
        """Whether it had no room for the whole message either, whose end then was left out."""

    def reset(self, system: str | None = None) -> None:
        """Begin again, with another system message or none."""
        self.turns, self.system, self.n_forgotten, self.is_cut = [], system, 0, False

    def prompt(self, text: str) -> list[int]:
        """The token ids that a model answers a message from: they end where an answer begins.

        Raises:
            LLMError: the text holds a special token, or can't be encoded.
        """
        system = () if self.system is None else (Message(SYSTEM, self.system),)
        room = max(1, self.model.config.context_length - self.sampling.max_new_tokens)
        for forgotten in range(len(self.turns) + 1):
            self.n_forgotten = forgotten
            history = [message for turn in self.turns[forgotten:] for message in turn]
            ids = self.maker.encode((*system, *history, Message(USER, text)), True, "the conversation").ids
            if len(ids) <= room:
                self.is_cut = False
                return ids
        ids, self.is_cut = self.maker.prompt((*system, Message(USER, text)), room, "the message")
        return ids

    def ask(self, text: str) -> Iterator[str]:
        """The answer to a message as it comes. Only a whole answer becomes part of the history.

        Raises:
            LLMError: the text holds a special token, or can't be encoded; or the logits are NaN.
        """
        answer = ""
        for piece in stream_text(self.model, self.maker.tokenizer, torch.tensor(self.prompt(text)), self.sampling):
            answer += piece
            yield piece
        for special in self.maker.tokenizer.special_ids:  # a model may write any; in a message it would be read as such
            answer = answer.replace(special, "")
        self.turns.append((Message(USER, text), Message(ASSISTANT, answer)))
