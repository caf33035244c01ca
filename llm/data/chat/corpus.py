"""The conversations of a corpus, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from llm.data.chat.errands import Split, errands
from llm.data.chat.messages import ASSISTANT, Conversation, read_conversations
from llm.data.held_out import held_out_rows
from llm.data.labelled import text_key
from llm.data.reading.corpus import sources_of
from llm.errors import ConfigError

ERRANDS = "errands"
"""The corpus that comes with the code; see `llm.data.chat.errands`."""
Placed = tuple[str, Conversation]
"""A conversation, and where it stands."""
_GENERATED: dict[str, Split] = {ERRANDS: "train", f"{ERRANDS}/held_out": "held_out"}


def corpus_files(corpus: str | list[str]) -> list[Path]:
    """The files of a corpus; none where it is generated."""
    return [Path(source).expanduser() for source in sources_of(corpus) if source not in _GENERATED]


def read_corpus(corpus: str | list[str]) -> Iterator[Placed]:
    """The conversations of files of records, or the generated ones.

    Raises:
        ConfigError: a name is that of a folder.
        DataError: a file can't be read, or a record is none of the three forms.
    """
    for source in sources_of(corpus):
        if source in _GENERATED:
            found = errands(_GENERATED[source])
            yield from ((f"errand {number}", each) for number, each in enumerate(found, start=1))
        elif Path(source).expanduser().is_dir():
            raise ConfigError(f"{source!r} is a folder; give the .json or .jsonl files in it")
        else:
            yield from read_conversations(Path(source).expanduser())


def held_out(found: Sequence[Placed], fraction: float) -> list[bool]:
    """Which conversations are for validation: a fraction of the different prompts, with all their answers.

    White space and case make no other prompt.

    Args:
        found: the conversations of a corpus.
        fraction: from 0 to 1.
    """
    prompts = [
        tuple((message.role, text_key(message.text)) for message in each if message.role != ASSISTANT)
        for _, each in found
    ]
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    chosen = set(held_out_rows(len(numbers), fraction).tolist())
    return [numbers[prompt] in chosen for prompt in prompts]
