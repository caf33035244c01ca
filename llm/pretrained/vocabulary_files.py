"""A tokenizer from a file that the user names: a vocabulary, a `tokenizer.json`, or other weights that have one."""

from __future__ import annotations

import contextlib
import io
import pickle
import pickletools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llm.errors import CheckpointError, LLMError, TokenizerError
from llm.pretrained.files import read_json
from llm.pretrained.roles import SETTINGS, read_optional, read_roles
from llm.pretrained.sentencepiece_files import convert_sentencepiece
from llm.pretrained.tokenizer_files import from_definition, read_tokenizer_files, read_word_pieces
from llm.tokenizers import CharTokenizer, Tokenizer, WordTokenizer
from llm.tokenizers.files import read_tokenizer_file

VOCABULARIES = (
    "meta.pkl (nanoGPT's), vocab.txt, chars.txt, tokenizer.json, or a checkpoint or folder that has a tokenizer"
)
_MOST_BYTES = 64 << 20
_PLAIN = re.compile(
    "PROTO|FRAME|STOP|MARK|MEMOIZE|(LONG_)?(BIN)?(PUT|GET)|(EMPTY_)?(DICT|LIST)|SETITEMS?|APPENDS?|"
    "(BIN)?INT[12]?|LONG1?|(SHORT_)?(BIN)?(UNICODE|STRING)"
)
"""The steps of a pickle that make dicts, lists, strings and integers, and nothing else."""


def read_vocabulary_file(path: Path) -> Tokenizer | None:
    """The tokenizer in a file or folder that holds no weights; None if it is of another kind.

    Args:
        path: `meta.pkl`, a `.txt` with a vocabulary, a `tokenizer.json` (Hugging Face's, or what `tokenizer train`
            wrote), or a folder with tokenizer files.

    Raises:
        CheckpointError: the file can't be read.
        TokenizerError: it holds no vocabulary.
    """
    if path.is_dir():
        return read_folder(path, [])
    if path.suffix == ".pkl":
        return read_meta(path)
    if path.suffix == ".txt":
        return _read_lines(path)
    if path.suffix == ".json":
        with damage_is_said(path):
            return _read_json(path)
    if path.suffix == ".model" and path.is_file():
        with damage_is_said(path):
            found = from_definition(convert_sentencepiece(path))
            return found.with_roles(read_roles(path.parent, found, []))
    return None


def read_folder(folder: Path, notes: list[str]) -> Tokenizer | None:
    """The tokenizer whose files are in a folder, with what they say of its special tokens; None if there are none.

    Args:
        folder: with the files.
        notes: what a user should know is appended to it.

    Raises:
        CheckpointError: a file is not JSON.
        TokenizerError: they describe no tokenizer, or are in a format that is not read.
    """
    with damage_is_said(folder):
        found = read_tokenizer_files(folder)
        return None if found is None else found.with_roles(read_roles(folder, found, notes))


@contextlib.contextmanager
def damage_is_said(path: Path | None = None) -> Iterator[None]:
    """Say of a tokenizer that its files are damaged, whatever they make the reading of them raise.

    Raises:
        TokenizerError: they are.
    """
    try:
        yield
    except LLMError:
        raise
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, OSError) as error:
        where = "it is" if path is None else f"the tokenizer in {str(path)!r} is"
        reason = " ".join(str(error).split())[:120]
        raise TokenizerError(f"{where} damaged, or of an unknown kind ({type(error).__name__}: {reason})") from error


def expected_files(folder: Path) -> str:
    """Which files a folder should hold that is to have a tokenizer, and what it holds, as the end of an error."""
    found = sorted(file.name for file in folder.iterdir())
    alone = [name for name in found if name.endswith((".json", ".pkl", ".txt"))]
    if len(alone) == 1:
        return f"give the file in it, {str(folder / alone[0])!r}, if that is one"
    return (
        "expected tokenizer.json, vocab.json with merges.txt, vocab.txt, or weights that have one; found "
        f"{', '.join(found[:10]) or 'nothing'}"
    )


def read_meta(path: Path) -> CharTokenizer:
    """The characters of nanoGPT's `meta.pkl`, whose `itos` says which id each has.

    The file is a pickle, which could run code. This one is read only if it makes dicts, lists, strings and integers.

    Raises:
        CheckpointError: the file can't be read.
        TokenizerError: it makes something else, or holds no characters.
    """
    shown = repr(str(path))
    content = _read_bytes(path)
    try:
        steps = [(step.name, argument) for step, argument, _ in pickletools.genops(content)]
        if any(name.endswith("PUT") and int(argument or 0) > len(content) for name, argument in steps):  # fills memory
            raise TokenizerError(f"{shown} is damaged: it numbers what it does not hold")
        if strange := {name for name, _ in steps if not _PLAIN.fullmatch(name)}:
            raise TokenizerError(
                f"{shown} is not opened: a vocabulary is a dict of strings and integers, and this pickle holds "
                f"something else ({', '.join(sorted(strange)[:3])}), which could run code"
            )
        meta = _Plain(io.BytesIO(content)).load()
    except TokenizerError:
        raise
    except Exception as error:  # a damaged pickle raises anything
        raise TokenizerError(f"{shown} is damaged, or no pickle: {str(error)[:120]}") from error
    itos = meta.get("itos") if isinstance(meta, dict) else None
    if isinstance(itos, list):
        itos = dict(enumerate(itos))
    if not isinstance(itos, dict) or not itos or not all(type(key) is int for key in itos):
        raise TokenizerError(
            f"{shown} is no meta.pkl of nanoGPT's: it has no 'itos', which says what each id stands for"
        )
    found = [itos.get(token_id) for token_id in range(len(itos))]
    characters = [character for character in found if isinstance(character, str) and len(character) == 1]
    if len(characters) != len(itos):
        raise TokenizerError(f"{shown}: its 'itos' should give one character for each of the ids 0 to {len(itos) - 1}")
    return CharTokenizer(characters)


def _read_json(path: Path) -> Tokenizer:
    """A `tokenizer.json` of Hugging Face's, with what the files beside it say; or a tokenizer of ours."""
    try:
        content = read_json(path)
    except CheckpointError:  # which the other reader will say
        content = {}
    if "model" not in content:
        return read_tokenizer_file(path)
    if path.name != "tokenizer.json":
        return from_definition(content)
    found = from_definition(content, read_optional(path.parent / SETTINGS))
    return found.with_roles(read_roles(path.parent, found, []))


class _Plain(pickle.Unpickler):
    """Finds no classes and no functions."""

    def find_class(self, module: str, name: str) -> Any:
        """None.

        Raises:
            TokenizerError: always.
        """
        raise TokenizerError(f"a vocabulary does not need {module}.{name}, which could run code")


def _read_lines(path: Path) -> Tokenizer:
    """A vocabulary as text: BERT's, all characters one after the other, or a character or word on each line."""
    try:
        text = _read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{str(path)!r} is not UTF-8 at byte {error.start}") from error
    lines = text.removesuffix("\n").split("\n")
    if {"[UNK]", "[CLS]", "[SEP]"} <= set(lines):
        with damage_is_said(path):
            return read_word_pieces(path, read_optional(path.parent / SETTINGS))
    for characters in (text, text.removesuffix("\n")):
        if characters and len(set(characters)) == len(characters):
            return CharTokenizer(characters)
    if len(lines) != len(set(lines)):
        twice = next(line for number, line in enumerate(lines) if line in lines[:number])
        raise TokenizerError(
            f"{str(path)!r} is no vocabulary: {twice[:40]!r} is there twice; expected all characters one after the "
            "other, or one character or word a line"
        )
    if all(len(line) == 1 for line in lines):
        return CharTokenizer(lines)
    return WordTokenizer(lines)


def _read_bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TokenizerError(f"{str(path)!r} is too large for a vocabulary")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"can't read {str(path)!r}: {error.strerror}") from error


def nanogpt_vocabulary(checkpoint: Path, dataset: Any) -> Path | None:
    """The `meta.pkl` of the data set that a nanoGPT checkpoint names, where nanoGPT has put it, or None.

    Args:
        checkpoint: the file, usually in a folder such as `out-shakespeare-char` beside `data`.
        dataset: what its `config` says.
    """
    if not isinstance(dataset, str) or Path(dataset).name != dataset or dataset in ("", ".", ".."):
        return None
    here = checkpoint.absolute().parent
    places = (here, here / "data" / dataset, here.parent / "data" / dataset, here.parent / dataset)
    return next((place / "meta.pkl" for place in places if (place / "meta.pkl").is_file()), None)
