"""A tokenizer alone in a file, as `Tokenizer.to_dict` describes it."""

from __future__ import annotations

import json
from pathlib import Path

from llm.errors import TokenizerError
from llm.runtime.files import write_whole
from llm.tokenizers import Tokenizer, tokenizer_from_dict


def write_tokenizer_file(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer to a `.json` file, which `read_tokenizer_file` reads.

    Raises:
        TokenizerError: the file can't be written.
    """
    try:
        write_whole(path, (json.dumps(tokenizer.to_dict(), ensure_ascii=False) + "\n").encode())
    except OSError as error:
        raise TokenizerError(f"can't write {str(path)!r}: {error.strerror or error}") from error


def read_tokenizer_file(path: Path) -> Tokenizer:
    """The tokenizer that `write_tokenizer_file` wrote.

    Raises:
        TokenizerError: the file can't be read, or describes no tokenizer.
    """
    try:
        return tokenizer_from_dict(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TokenizerError(f"can't read {str(path)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError, TokenizerError) as error:
        raise TokenizerError(
            f"{str(path)!r} is not what `python -m llm tokenizer train` writes, nor a tokenizer.json: {str(error)[:99]}"
        ) from error
