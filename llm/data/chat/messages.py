"""Conversations out of files: Alpaca records, chat records, and pairs of prompt and completion."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llm.errors import DataError

ROLES = ("system", "user", "assistant")
USER, ASSISTANT, SYSTEM = "user", "assistant", "system"

_LARGEST_BYTES = 1 << 30
"""Limit of a JSON file, which is read in one piece; JSON lines have none."""
_FORMS = "`instruction` and `output` (Alpaca), `messages` (chat), or `prompt` and `completion`"


@dataclass(frozen=True)
class Message:
    """One message of a conversation.

    Args:
        role: `system`, `user` or `assistant`.
        content: its text.
        input: of a user's message in Alpaca's form: what the instruction is about.
        learned: of an assistant's message: whether it is to be learned (OpenAI's `weight` 1) or is context (0).
    """

    role: str
    content: str
    input: str = ""
    learned: bool = True

    @property
    def text(self) -> str:
        """The whole text."""
        return f"{self.content}\n{self.input}" if self.input else self.content

    def to_dict(self) -> dict[str, Any]:
        """As a Jinja template sees it: `content` is the whole text, `instruction` and `input` its two parts."""
        return {"role": self.role, "content": self.text, "instruction": self.content, "input": self.input}


Conversation = tuple[Message, ...]


def read_conversations(path: Path) -> Iterator[tuple[str, Conversation]]:
    """The conversations of a file, each with the words that say where it stands.

    Args:
        path: `.json`, a list of records; or `.jsonl`, a record a line, of which blank ones are skipped.

    Raises:
        DataError: the file can't be read, or a record is none of the three forms; says which and why.
    """
    for place, record in _records(path):
        where = f"{str(path)!r}, {place}"
        yield where, conversation_of(record, where)


def _records(path: Path) -> Iterator[tuple[str, Any]]:
    shown = repr(str(path))
    try:
        if path.suffix.lower() == ".jsonl":
            with path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield f"line {number}", _parsed(line, f"{shown}, line {number}", "each line holds one record")
            return
        if path.suffix.lower() != ".json":
            raise DataError(f"{shown} is neither .json nor .jsonl; instructions are records in one of these")
        if path.stat().st_size > _LARGEST_BYTES:
            raise DataError(f"{shown} is larger than 1 GB; write it as JSON lines (.jsonl), which are streamed")
        records = _parsed(path.read_bytes(), shown, "for a record a line, name the file .jsonl")
    except OSError as error:
        raise DataError(f"can't read {shown}: {error.strerror}") from error
    if not isinstance(records, list):
        raise DataError(f"{shown}: expected a list of records, got {str(records)[:40]!r}")
    for number, record in enumerate(records, start=1):
        yield f"record {number}", record


def _parsed(data: bytes, where: str, advice: str) -> Any:
    """The value that JSON spells, with a byte order mark or without.

    Raises:
        DataError: it is empty, not UTF-8, or not JSON; says where, and what to do.
    """
    if not data or data.isspace():
        raise DataError(f"{where} is empty; give a file with at least one record")
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise DataError(f"{where}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}; {advice}") from error


def conversation_of(record: Any, where: str = "the record") -> Conversation:
    """The conversation in a record.

    Raises:
        DataError: it is none of the three forms, a text is missing or is none, or a prompt is empty.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where}: expected a record with {_FORMS}; got {str(record)[:40]!r}")
    if "messages" in record:
        return _chat(record["messages"], where)
    for question, answer in (("instruction", "output"), ("prompt", "completion")):
        if question in record and answer in record:
            text = _text(record, question, where)
            more = _text(record, "input", where) if record.get("input") and question == "instruction" else ""
            if not (text.strip() or more.strip()):
                raise DataError(f"{where}: the {question} is empty; give it a text, or take the record out")
            system = (Message(SYSTEM, _text(record, "system", where)),) if record.get("system") else ()
            return (*system, Message(USER, text, more), Message(ASSISTANT, _text(record, answer, where)))
    raise DataError(f"{where}: a record has {_FORMS}; this one has {', '.join(map(str, record))[:80] or 'nothing'}")


def _text(record: dict[str, Any], name: str, where: str) -> str:
    if not isinstance(text := record.get(name), str):
        raise DataError(f"{where}: {name!r} must be a string, got {str(text)[:40]!r}")
    return text


def _chat(messages: Any, where: str) -> Conversation:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"{where}: 'messages' must be a list of records with role and content")
    found = []
    for number, message in enumerate(messages, start=1):
        here = f"{where}, message {number}"
        if (role := message.get("role")) not in ROLES:
            raise DataError(f"{here}: the role must be one of {', '.join(ROLES)}; got {str(role)[:40]!r}")
        content, weight = _text(message, "content", here), message.get("weight", 1)
        if role == USER and not content.strip():
            raise DataError(f"{here}: the user's message is empty; give it a text, or take the record out")
        if weight not in (0, 1):
            raise DataError(f"{here}: weight must be 0 or 1, got {str(weight)[:40]!r}")
        found.append(Message(role, content, learned=bool(weight)))
    refuse_disorder(found, where)
    if not any(message.role == ASSISTANT and message.learned for message in found):
        raise DataError(f"{where}: no message of the assistant is to be learned, so that nothing is supervised")
    return tuple(found)


def refuse_disorder(messages: Sequence[Message], where: str) -> None:
    """Refuse a conversation that is not [system,] user, assistant, user, assistant, ...

    Raises:
        DataError: it is not; says at which message.
    """
    expected, start = USER, 1 if messages and messages[0].role == SYSTEM else 0
    for number, message in enumerate(messages[start:], start=start + 1):
        if message.role != expected:
            raise DataError(
                f"{where}, message {number}: expected one of the {expected}, got one of the {message.role}: after a "
                "system message, which may be left out, user and assistant take turns"
            )
        expected = ASSISTANT if expected == USER else USER
