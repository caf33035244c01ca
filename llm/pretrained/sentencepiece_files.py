"""SentencePiece's own files, such as `tokenizer.model` and `spiece.model`, converted by `transformers`."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from llm.errors import TokenizerError
from llm.pretrained.files import read_json

_PATTERNS = ("spiece.model", "*tokenizer*.model", "*.bpe.model")
_BESIDE = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""What says of which family the file is, and what is put around a text."""


def find_sentencepiece(folder: Path) -> Path | None:
    """The file in a folder; None if there is none."""
    return next(iter(sorted(path for pattern in _PATTERNS for path in folder.glob(pattern))), None)


def convert_sentencepiece(path: Path) -> dict[str, Any]:
    """The content of the `tokenizer.json` that `transformers` makes of a file and of the settings beside it.

    Raises:
        TokenizerError: the libraries are not installed, or can't convert it.
    """
    try:
        import google.protobuf  # noqa: F401
        from sentencepiece import SentencePieceProcessor
        from transformers import AutoTokenizer
    except ImportError as error:
        raise TokenizerError(
            f"{path.name} is SentencePiece's format: to read it needs pip install 'see-inside-llm[sentencepiece]', or "
            "a tokenizer.json beside it"
        ) from error
    with tempfile.TemporaryDirectory() as name:  # with this file alone, whatever it is called
        folder = Path(name)
        is_known = any(path.match(pattern) for pattern in _PATTERNS)
        shutil.copyfile(path, folder / (path.name if is_known else "tokenizer.model"))
        for beside in _BESIDE:
            if (path.parent / beside).is_file() and (beside != "config.json" or not _is_gpt2(path.parent / beside)):
                shutil.copyfile(path.parent / beside, folder / beside)
        try:
            SentencePieceProcessor(model_file=str(path))  # is stricter than the conversion
            found = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
            content = json.loads(found.backend_tokenizer.to_str())
        except Exception as error:  # a damaged file can make it raise anything
            reason = str(error).strip().split("\n")[0][:200]
            raise TokenizerError(
                f"{str(path)!r} is not SentencePiece's format, or transformers can't convert it: {reason}"
            ) from error
    return dict(content)


def _is_gpt2(config: Path) -> bool:
    """Whether `transformers` would take the file for bytes in GPT-2's printable form, whatever it holds."""
    return bool(read_json(config).get("model_type") == "gpt2")
