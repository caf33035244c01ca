"""Examples of unequal length on disk, written once and memory-mapped ever after.

A store is a folder. `inputs` holds the token ids of all examples one after the other (two bytes each, or four if the
vocabulary needs them), `targets` their targets (four bytes), `ends` where each example ends (eight bytes), all
little-endian; `examples.json` describes them. The folder is moved into its place as a whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import numpy as np
import numpy.typing as npt

from llm.data.batch import IGNORED
from llm.data.reading.hashing import file_hash
from llm.data.tokens.mapped import MappedTokens
from llm.data.tokens.opening import cache_key
from llm.data.tokens.store import CHECKED_BYTES
from llm.errors import DataError
from llm.runtime.files import make_folder, move_into_place, remove_stale, temporary_for, whole_file, write_whole
from llm.tokenizers import Tokenizer

log = logging.getLogger(__name__)

FORMAT = "llm-examples"
VERSION = 1
DESCRIPTION = "examples.json"

_MOST_TARGET = 2**31 - 1


@dataclass(frozen=True)
class Example:
    """One sample: token ids, and the target at each of them.

    Args:
        inputs: (T) token ids, at least one.
        targets: (T) the target at each position, a token or a class; `IGNORED` where nothing is supervised.
    """

    inputs: Sequence[int] | npt.NDArray[Any]
    targets: Sequence[int] | npt.NDArray[Any]

    @classmethod
    def next_tokens(cls, ids: Sequence[int], supervised: Sequence[bool]) -> Self:
        """A sample whose next tokens are to be predicted: the targets are the ids shifted by one.

        Args:
            ids: (T + 1) token ids.
            supervised: (T + 1) whether each of them is to be predicted; the first never is.
        """
        pairs = zip(ids[1:], supervised[1:], strict=True)
        return cls(ids[:-1], [token if learned else IGNORED for token, learned in pairs])


@dataclass(frozen=True)
class ExampleStore:
    """What a folder of examples holds. Opening it reads the description, and verifies small stores.

    Args:
        path: the folder.
        dtype: of the inputs, `<u2` or `<u4`.
        n_examples: number of examples.
        n_tokens: of all examples together.
        n_supervised: how many of them have a target.
        fingerprint: of the tokenizer.
        source_hash: of what the examples were made from, and how.
        hashes: SHA-256 of each file.
    """

    path: Path
    dtype: str
    n_examples: int
    n_tokens: int
    n_supervised: int
    fingerprint: str
    source_hash: str
    hashes: dict[str, str]

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Read the description of a store, and check its files against it.

        Raises:
            FileNotFoundError: there is no such store.
            DataError: it is not a store of this format, or a file is missing or not what was written.
        """
        path = Path(path)
        content = (path / DESCRIPTION).read_bytes()
        try:
            described = json.loads(content)
            if (described.pop("format"), described.pop("version")) != (FORMAT, VERSION):
                raise ValueError("it has another format or version")
            store = cls(path=path, **described)
            if not all(type(count) is int for count in (store.n_examples, store.n_tokens, store.n_supervised)):
                raise ValueError("its counts are not integers")
            sizes = store._sizes
            if store.dtype not in ("<u2", "<u4") or set(store.hashes) != set(sizes) or store.n_examples < 1:
                raise ValueError("what it says contradicts itself")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{str(path)!r} is not a store of examples of version {VERSION}: {error}") from error
        for name, size in sizes.items():
            file = path / name
            found = file.stat().st_size if file.is_file() else None
            if found != size:
                raise DataError(f"{str(file)!r} is damaged: expected {size} bytes, found {found}")
            if sum(sizes.values()) <= CHECKED_BYTES and file_hash(file) != store.hashes[name]:
                raise DataError(f"{str(file)!r} is damaged: it is not what was written")
        return store

    @property
    def _sizes(self) -> dict[str, int]:
        """Bytes in each file."""
        return {
            "inputs": self.n_tokens * np.dtype(self.dtype).itemsize,
            "targets": self.n_tokens * 4,
            "ends": self.n_examples * 8,
        }

    @property
    def content_hash(self) -> str:
        """SHA-256 of all examples."""
        return hashlib.sha256(json.dumps(self.hashes, sort_keys=True).encode()).hexdigest()

    @property
    def inputs(self) -> MappedTokens:
        """(n_tokens) the token ids of all examples, one example after the other."""
        return self._map("inputs", self.n_tokens, self.dtype)

    @property
    def targets(self) -> MappedTokens:
        """(n_tokens) their targets."""
        return self._map("targets", self.n_tokens, "<i4")

    @property
    def ends(self) -> MappedTokens:
        """(n_examples) where in the tokens each example ends."""
        return self._map("ends", self.n_examples, "<i8")

    def _map(self, name: str, length: int, dtype: str) -> MappedTokens:
        return MappedTokens((self.path / name,), (length,), np.dtype(dtype), 0, 0, length, read_ahead=False)


def open_or_build_examples(
    examples: Callable[[], Iterable[Example]], source_hash: str, tokenizer: Tokenizer, cache_dir: str | Path
) -> ExampleStore:
    """The store of some examples, made now if the cache holds none.

    Any number of processes may do so at once: each writes beside the place, and the first one is what all use.

    Args:
        examples: gives them; called only if they are not in the cache. They are streamed, never all in memory.
        source_hash: of what they are made from, and of the settings that decide how.
        tokenizer: what encoded them.
        cache_dir: where stores are kept, each in a folder of its own.

    Raises:
        DataError: there are no examples; one is empty, has a token outside the vocabulary, not as many targets as
            tokens, or a target that is none; or the cache can't be written.
        OSError: `examples` raises it.
    """
    of_the_source: list[OSError] = []

    def watched() -> Iterator[Example]:
        try:
            yield from examples()
        except OSError as error:
            of_the_source.append(error)
            raise

    target = Path(cache_dir) / cache_key(source_hash, tokenizer.fingerprint, f"{FORMAT} {VERSION}")
    try:
        with contextlib.suppress(FileNotFoundError):
            try:
                return _open_own(target, source_hash, tokenizer)
            except DataError as error:
                log.warning("%s; building it again", error)
        make_folder(target.parent)
        remove_stale(target.parent)
        temporary = temporary_for(target)
        temporary.mkdir()
        try:
            _write(temporary, watched(), source_hash, tokenizer)
            try:
                move_into_place(temporary, target)
            except OSError:  # there is a folder: another process was faster, or it is the damaged one
                try:
                    return _open_own(target, source_hash, tokenizer)
                except (DataError, FileNotFoundError):
                    shutil.rmtree(target)
                    move_into_place(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return ExampleStore.open(target)
    except OSError as error:
        if error in of_the_source:  # it says nothing about the cache
            raise
        raise DataError(
            f"can't use the cache of examples {str(target)!r}: {error.strerror}; choose another cache_dir"
        ) from error


def _open_own(target: Path, source_hash: str, tokenizer: Tokenizer) -> ExampleStore:
    """The store there.

    Raises:
        FileNotFoundError: there is none.
        DataError: it is damaged, or of other data.
    """
    store = ExampleStore.open(target)
    if (store.source_hash, store.fingerprint) != (source_hash, tokenizer.fingerprint):
        raise DataError(f"cache of examples {str(target)!r} is of other data or another tokenizer")
    return store


def _write(folder: Path, examples: Iterable[Example], source_hash: str, tokenizer: Tokenizer) -> None:
    """Write the files of a store, and last of all its description."""
    dtype = "<u4" if tokenizer.vocab_size > 2**16 else "<u2"
    n_examples = n_tokens = n_supervised = 0
    with (
        whole_file(folder / "inputs") as inputs_file,
        whole_file(folder / "targets") as targets_file,
        whole_file(folder / "ends") as ends_file,
    ):
        files = {
            name: _Hashed(f) for name, f in (("inputs", inputs_file), ("targets", targets_file), ("ends", ends_file))
        }
        for number, example in enumerate(examples):
            inputs, targets = _integers(example.inputs), _integers(example.targets)
            if len(inputs) == 0 or len(inputs) != len(targets):
                raise DataError(
                    f"example {number:,} has {len(inputs)} tokens and {len(targets)} targets; each needs at least one "
                    "token, and a target for each token"
                )
            if not 0 <= inputs.min() <= inputs.max() < tokenizer.vocab_size:
                raise DataError(
                    f"example {number:,} has token ids from {inputs.min()} to {inputs.max()}, outside the vocabulary "
                    f"of {tokenizer.vocab_size:,}: it was encoded with another tokenizer"
                )
            is_wrong = (targets != IGNORED) & ((targets < 0) | (targets > _MOST_TARGET))
            if is_wrong.any():
                raise DataError(
                    f"example {number:,} has the target {targets[is_wrong.argmax()]}; a target is a token or a class, "
                    f"from 0 to {_MOST_TARGET:,}, or {IGNORED} where nothing is supervised"
                )
            n_examples += 1
            n_tokens += len(inputs)
            n_supervised += int((targets != IGNORED).sum())
            files["inputs"].write(inputs.astype(dtype))
            files["targets"].write(targets.astype("<i4"))
            files["ends"].write(np.array([n_tokens], "<i8"))
        hashes = {name: file.hash.hexdigest() for name, file in files.items()}
    if n_examples == 0:
        raise DataError("there are no examples; check the data that they are made from")
    store = ExampleStore(folder, dtype, n_examples, n_tokens, n_supervised, tokenizer.fingerprint, source_hash, hashes)
    described = {"format": FORMAT, "version": VERSION, **dataclasses.asdict(store)}
    del described["path"]
    write_whole(folder / DESCRIPTION, json.dumps(described, indent=1).encode())


def _integers(values: Sequence[int] | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """As an array; what is too large for it becomes the largest number there is, which is no token and no target."""
    try:
        return np.asarray(values, np.int64)
    except OverflowError:
        limits = np.iinfo(np.int64)
        return np.array([min(max(int(value), limits.min), limits.max) for value in values], np.int64)


class _Hashed:
    """A file, and the SHA-256 of what is written to it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def write(self, content: npt.NDArray[Any]) -> None:
        self._file.write(content.data)
        self.hash.update(content.data)
