"""From conversations to samples that fit the context: prompts are truncated, answers never."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from llm.data.chat.messages import ASSISTANT, SYSTEM, USER, Conversation, Message
from llm.data.chat.templates import ChatTemplate
from llm.data.tokens.examples import Example
from llm.runtime.words import counted
from llm.tokenizers import Tokenizer


class Encoded(NamedTuple):
    """A conversation as token ids, and which of them are supervised; both of one length."""

    ids: list[int]
    supervised: list[bool]


@dataclass
class Losses:
    """What was lost of conversations on the way to samples.

    Args:
        truncated: samples whose prompt was truncated.
        divided: conversations that were divided at whole turns, since they are longer than the context.
        unanswered: conversations whose last message has no answer, and was left out.
        left_out: answers that do not fit, even without their prompt, and were left out.
    """

    truncated: int = 0
    divided: int = 0
    unanswered: int = 0
    left_out: int = 0

    def sentences(self, context_length: int) -> list[str]:
        """What a user should know, one kind of loss each."""
        length = f"context_length {context_length:,}"
        return [
            counted(count, one, several)
            for count, one, several in (
                (self.truncated, f"prompt was truncated to {length}", f"prompts were truncated to {length}"),
                (
                    self.divided,
                    f"conversation longer than {length} was divided at whole turns",
                    f"conversations longer than {length} were divided at whole turns",
                ),
                (
                    self.unanswered,
                    "conversation ends with a message that has no answer: it was left out",
                    "conversations end with a message that has no answer: it was left out",
                ),
                (
                    self.left_out,
                    f"answer is longer than {length} and was left out",
                    f"answers are longer than {length} and were left out",
                ),
            )
            if count
        ]


@dataclass(frozen=True)
class SampleMaker:
    """Makes samples of conversations.

    Args:
        template: how a conversation becomes text.
        tokenizer: with the template's special tokens.
        context_length: T, the most tokens of a sample's inputs.
        learn_all: supervise every token, not the answers alone.
    """

    template: ChatTemplate
    tokenizer: Tokenizer
    context_length: int
    learn_all: bool = False

    def encode(self, messages: Sequence[Message], for_answer: bool = False, where: str = "the sample") -> Encoded:
        """A conversation as token ids, piece by piece, whatever its length.

        Without `for_answer` it ends with what is supervised last: nothing is learned behind that.

        Raises:
            LLMError: the template can't render it, or the tokenizer can't encode it.
        """
        ids: list[int] = []
        supervised: list[bool] = []
        for text, learned in self.template.pieces(messages, self.tokenizer, for_answer, where, self.learn_all):
            found = self.tokenizer.encode(text)
            ids += found
            supervised += [learned] * len(found)
        end = len(ids) if for_answer else max((n for n, learned in enumerate(supervised, 1) if learned), default=0)
        return Encoded(ids[:end], supervised[:end])

    def samples(self, conversation: Conversation, losses: Losses, where: str = "the sample") -> Iterator[Example]:
        """The samples of a conversation: one, or several if it is longer than the context.

        Args:
            conversation: in order.
            losses: what is lost is counted there.
            where: it stands, for errors.
        """
        if conversation[-1].role == USER:
            losses.unanswered += 1
            conversation = conversation[:-1]
        whole = self.encode(conversation, where=where)
        if self._fits(whole):
            yield Example.next_tokens(*whole)
            return
        system = tuple(message for message in conversation[:1] if message.role == SYSTEM)
        rest = conversation[len(system) :]
        turns = [rest[start : start + 2] for start in range(0, len(rest), 2)]
        losses.divided += len(turns) > 1
        while turns:
            count, found = self._longest(system, turns, where)
            if found is None:  # not even one turn
                count, found = 1, self._truncated((*system, *turns[0]), where)
                if found is None:
                    losses.left_out += 1
                else:
                    losses.truncated += 1
            turns = turns[count:]
            if found is not None and any(found.supervised[1:]):
                yield Example.next_tokens(*found)

    def prompt(self, messages: Sequence[Message], room: int, where: str = "the prompt") -> tuple[list[int], bool]:
        """The ids of a conversation up to where an answer is to begin, and whether it had to be truncated.

        Whole turns are left out first, from the oldest on, then the end of the last message.

        Args:
            messages: the last is the user's.
            room: the most tokens that it may have.
            where: it stands, for errors.
        """
        system = tuple(message for message in messages[:1] if message.role == SYSTEM)
        rest = tuple(messages[len(system) :])
        ids = self.encode((*system, *rest), True, where).ids
        is_cut = len(ids) > room
        while len(ids) > room and len(rest) > 1:
            rest = rest[2:]
            ids = self.encode((*system, *rest), True, where).ids
        if len(ids) > room:
            found = self._shortened((*system, *rest), True, room, where)
            ids = ids[-room:] if found is None else found.ids
        return ids, is_cut

    def _fits(self, encoded: Encoded) -> bool:
        return len(encoded.ids) - 1 <= self.context_length

    def _longest(self, system: Conversation, turns: list[Conversation], where: str) -> tuple[int, Encoded | None]:
        """The most turns from the first on that fit, and their tokens; None if not even one fits."""
        best: tuple[int, Encoded | None] = 0, None
        for count in range(1, len(turns) + 1):
            encoded = self.encode((*system, *(message for turn in turns[:count] for message in turn)), where=where)
            if not self._fits(encoded):
                break
            best = count, encoded
        return best

    def _truncated(self, messages: Conversation, where: str) -> Encoded | None:
        return self._shortened(messages, False, self.context_length + 1, where)

    def _shortened(self, messages: Conversation, for_answer: bool, room: int, where: str) -> Encoded | None:
        """The conversation with the end of its last user's message left out; None if that does not suffice."""
        place = max(number for number, message in enumerate(messages) if message.role == USER)
        message = messages[place]
        name = "input" if message.input else "content"  # an instruction is kept before what it is about
        while True:
            encoded = self.encode(messages, for_answer, where)
            excess = len(encoded.ids) - room
            if excess <= 0:
                return encoded
            ids = self.tokenizer.encode(getattr(message, name))
            if not ids:
                if name == "content":
                    return None
                name = "content"
                continue
            kept = self.tokenizer.decode(ids[: max(0, len(ids) - excess)]).rstrip("\ufffd")
            if len(kept) >= len(getattr(message, name)):  # a tokenizer that does not give a text back as it was
                kept = ""
            message = replace(message, content=kept) if name == "content" else replace(message, input=kept)
            messages = (*messages[:place], message, *messages[place + 1 :])


def question_of(conversation: Conversation) -> tuple[Conversation, str] | None:
    """What is asked last in a conversation, with all before it, and the answer that is given; None if there is none."""
    answers = [number for number, message in enumerate(conversation) if message.role == ASSISTANT]
    return (conversation[: answers[-1]], conversation[answers[-1]].content) if answers else None
