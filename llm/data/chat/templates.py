"""Chat templates: from messages to pieces of text, each supervised or not.

Every template is Jinja, as Hugging Face's are. What is supervised is what stands in `{% generation %}` blocks; a
template without them is rendered up to each answer and after it, and the difference is the answer, if the text before
is a prefix of the text after. There is no search for a marker in token ids.
"""

from __future__ import annotations

import functools
import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

from llm.data.chat.messages import ASSISTANT, USER, Conversation, Message
from llm.data.chat.named_templates import NAMED
from llm.data.chat.sandbox import environment
from llm.errors import ConfigError, DataError, LLMError, first_line_of
from llm.tokenizers import END_OF_TEXT, Tokenizer

_PROBE = (Message(USER, "one"), Message(ASSISTANT, "two"), Message(USER, "three"), Message(ASSISTANT, "four"))


class Piece(NamedTuple):
    """Some text of a conversation; it is encoded on its own."""

    text: str
    supervised: bool


@dataclass(frozen=True)
class ChatTemplate:
    """How a conversation becomes text.

    Args:
        source: Jinja, with `messages`, `add_generation_prompt`, `bos_token` and `eos_token`; rendered in a sandbox.
        special_tokens: that the vocabulary has to have.
        eos_token: the text of the token that ends an answer where the source says `eos_token`.
        bos_token: the same of the one that begins a text.
        is_strict: whether a name that is not there may not be written; a misspelled one would leave nothing. A
            published model's own template does as in `transformers`.
    """

    source: str
    special_tokens: tuple[str, ...] = ()
    eos_token: str = END_OF_TEXT
    bos_token: str = ""
    is_strict: bool = True

    @classmethod
    def find(cls, name: str, special_tokens: Sequence[str] = (), tokenizer: Tokenizer | None = None) -> Self:
        """The template with a name, in a file, or given as Jinja itself.

        One with a name begins with what the model expects before a text, such as `<s>` of a Llama; any other says so
        itself.

        Args:
            name: a word of `NAMED`, a path, or a text with `{{` or `{%` in it.
            special_tokens: more tokens that the vocabulary has to have.
            tokenizer: whose begin and end of text are `bos_token` and `eos_token`; nothing and `<|endoftext|>` where
                no special token is.

        Raises:
            ConfigError: there is no such template, or it can't be parsed.
        """
        needed: tuple[str, ...] = ()
        where = ""
        is_own = tokenizer is not None and name == tokenizer.roles.chat_template
        if is_own:  # whatever it looks like: files are for the user to name
            source = name
        elif name in NAMED:
            source, needed = NAMED[name]
            source = source if tokenizer is None else _begun(source, tokenizer)
        elif "{{" in name or "{%" in name:
            source = name
        else:
            try:
                source = Path(name).expanduser().read_text(encoding="utf-8")
                where = f"{name}: "
            except (OSError, ValueError) as error:
                raise ConfigError(
                    f"there is no template {name[:80]!r}: give {', '.join(NAMED)}, a file of Jinja, or Jinja itself"
                ) from error
        begin, end = "", END_OF_TEXT
        if tokenizer is not None:
            texts: dict[int | None, str] = {token_id: text for text, token_id in tokenizer.special_ids.items()}
            begin, end = texts.get(tokenizer.roles.begin_id, begin), texts.get(tokenizer.end_of_text_id, end)
        needed = tuple(dict.fromkeys([*needed, *special_tokens]))
        needed = needed if end in needed or "eos_token" not in source else (*needed, end)
        template = cls(source, needed, end, begin, is_strict=not is_own)
        try:
            template._compiled  # noqa: B018 (what is wrong with it is said now)
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from error
        return template

    def to_dict(self) -> dict[str, Any]:
        """Everything needed to build it again, as primitives: a checkpoint keeps it."""
        return {
            "source": self.source,
            "special_tokens": list(self.special_tokens),
            "eos_token": self.eos_token,
            "bos_token": self.bos_token,
            "is_strict": self.is_strict,
        }

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """The template that `to_dict` described.

        Raises:
            ConfigError: the dict describes none.
        """
        try:
            texts = [state["source"], state["eos_token"], state["bos_token"], *state["special_tokens"]]
            if all(isinstance(text, str) for text in texts):
                template = cls(texts[0], tuple(texts[3:]), texts[1], texts[2], bool(state["is_strict"]))
                template._compiled  # noqa: B018
                return template
        except (KeyError, TypeError):
            pass
        raise ConfigError(f"this describes no chat template: {str(state)[:80]}")

    def prepare(self, tokenizer: Tokenizer) -> Tokenizer:
        """The tokenizer with the special tokens that the template needs.

        Raises:
            ConfigError: what the template writes of an answer does not end with a special token, so that a model would
                never learn to stop.
            TokenizerError: a token is none that a special token can be.
        """
        for name in self.special_tokens:
            tokenizer = tokenizer.with_special(name)
        self.end_of_answer(tokenizer)
        return tokenizer

    def end_of_answer(self, tokenizer: Tokenizer) -> int:
        """The id of the special token that ends an answer.

        Raises:
            ConfigError: there is none.
        """
        return tokenizer.special_ids[self.end_text(tokenizer)]

    def end_text(self, tokenizer: Tokenizer) -> str:
        """The special token that ends an answer.

        Raises:
            ConfigError: there is none.
        """
        pieces = [piece for piece in self.pieces(_PROBE, tokenizer) if piece.supervised]
        if not pieces or pieces[-1].text not in tokenizer.special_ids:
            raise ConfigError(
                "the template ends no answer with a special token, so that a model would never learn to stop: write "
                "eos_token behind the answer, or name the token in data.special_tokens"
            )
        return pieces[-1].text

    def pieces(
        self,
        messages: Sequence[Message],
        tokenizer: Tokenizer,
        for_answer: bool = False,
        where: str = "the sample",
        learn_all: bool = False,
    ) -> list[Piece]:
        """The text of a conversation in pieces; special tokens of the template are pieces of their own.

        Args:
            messages: at least one.
            tokenizer: whose special tokens are looked for.
            for_answer: end with what stands before an answer, so that a model gives one.
            where: of the conversation, for errors.
            learn_all: supervise the other messages too.

        Raises:
            ConfigError: what is supervised can't be told from the rest.
            DataError: a message holds a special token, which would end or begin a message in its middle.
        """
        specials = tokenizer.special_ids
        for message in messages:
            for special in specials:
                if special in message.content or special in message.input:
                    raise DataError(
                        f"{where}: the text of the {message.role} holds the special token {special}, as which it would "
                        "be read: write it differently"
                    )
        try:
            spans = self._spans(tuple(messages), for_answer, learn_all)
        except LLMError as error:
            raise type(error)(f"{where}: {error}") from error
        pattern = _special_pattern(tuple(sorted(specials, key=len, reverse=True)))
        return [Piece(part, piece.supervised) for piece in spans for part in pattern.split(piece.text) if part]

    def plain_texts(self, messages: Sequence[Message]) -> list[str]:
        """The text of a conversation without the template's special tokens: what a vocabulary is learned from."""
        pattern = _special_pattern(tuple(dict.fromkeys([*self.special_tokens, self.eos_token])))
        parts = [part for piece in self._spans(tuple(messages), False, False) for part in pattern.split(piece.text)]
        return [part for part in parts if part and not pattern.fullmatch(part)]

    @property
    def marks_answers(self) -> bool:
        """Whether it has `{% generation %}` blocks."""
        return re.search(r"\{%-?\s*generation\s*-?%\}", self.source) is not None

    def _spans(self, messages: Conversation, for_answer: bool, learn_all: bool) -> list[Piece]:
        unlearned = {i for i, m in enumerate(m for m in messages if m.role == ASSISTANT) if not m.learned}
        spans = self._marked(messages, for_answer) if self.marks_answers else self._by_prefixes(messages, for_answer)
        found, answer = [], 0
        for text, is_answer in spans:
            found.append(Piece(text, answer not in unlearned if is_answer else learn_all))
            answer += is_answer
        n_answers = sum(message.role == ASSISTANT for message in messages)
        if answer != n_answers:
            raise ConfigError(
                f"the template marks {answer} answer(s) of a conversation with {n_answers}: its {{% generation %}} "
                "blocks must hold the text of each assistant's message"
            )
        return found

    def _marked(self, messages: Conversation, for_answer: bool) -> list[Piece]:
        """The text cut at the marks that `{% generation %}` blocks leave."""
        mark = f"\x00{secrets.token_hex(8)}\x00"  # nothing that a message could hold
        parts = self._render(messages, for_answer, mark).split(mark)
        return [Piece(part, number % 2 == 1) for number, part in enumerate(parts)]

    def _by_prefixes(self, messages: Conversation, for_answer: bool) -> list[Piece]:
        """The text up to each answer, and what the answer adds to it."""
        found: list[Piece] = []
        before = ""
        for number, message in enumerate(messages):
            if message.role != ASSISTANT:
                continue
            prompt, whole = self._render(messages[:number], True), self._render(messages[: number + 1], False)
            if not (prompt.startswith(before) and whole.startswith(prompt)):
                raise ConfigError(
                    "the template has no {% generation %} blocks, and what it writes before an answer is no prefix of "
                    "what it writes with it, so that the answer can't be told from the rest: put {% generation %} and "
                    "{% endgeneration %} around the assistant's content and end token"
                )
            answer = whole[len(prompt) :]
            kept = answer.rstrip()  # what follows the end token, as a line break, is never generated
            found += [Piece(prompt[len(before) :], False), Piece(kept, True)]
            before = prompt + kept
        rest = self._render(messages, for_answer)
        if not rest.startswith(before):
            raise ConfigError(
                "the template has no {% generation %} blocks, and changes what it wrote of earlier messages when "
                "others follow: put {% generation %} and {% endgeneration %} around each answer and its end token"
            )
        return [*found, Piece(rest[len(before) :], False)]

    def _render(self, messages: Conversation, for_answer: bool, mark: str = "") -> str:
        try:
            text: str = self._compiled.render(
                messages=[message.to_dict() for message in messages],
                add_generation_prompt=for_answer,
                eos_token=self.eos_token,
                bos_token=self.bos_token,
                generation_mark=mark,
            )
        except Exception as error:  # it is somebody's program, and may raise anything
            raise ConfigError(f"the template can't be rendered: {first_line_of(error)}") from error
        return text

    @functools.cached_property
    def _compiled(self) -> Any:
        from jinja2 import TemplateSyntaxError

        try:
            return environment(self.is_strict).from_string(self.source)
        except Exception as error:  # Python, to which Jinja translates it, can refuse it in many ways
            line = error.lineno if isinstance(error, TemplateSyntaxError) else None  # that of Python is another
            where = f", line {line}" if line else ""
            raise ConfigError(f"the template is not Jinja{where}: {first_line_of(error)}") from error


@functools.lru_cache
def _special_pattern(specials: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("(" + ("|".join(map(re.escape, specials)) or "(?!)") + ")")


def _begun(source: str, tokenizer: Tokenizer) -> str:
    """A template that first of all writes the tokens that stand before every text."""
    texts = {token_id: text for text, token_id in tokenizer.special_ids.items()}
    begin = "".join(texts.get(token_id, "") for token_id in tokenizer.prefix_ids)
    return f"{{{{ {json.dumps(begin, ensure_ascii=False)} -}}}}{source}" if begin else source
