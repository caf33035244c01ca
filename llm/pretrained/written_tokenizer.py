"""Hugging Face's tokenizer files, written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm.errors import TokenizerError
from llm.pretrained.files import read_json
from llm.pretrained.roles import SETTINGS, stated_tokens
from llm.pretrained.tokenizer_files import FAST, gpt2_merges
from llm.pretrained.word_level import to_word_level
from llm.tokenizers import (
    BPETokenizer,
    BytePairTokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
    from_merges,
    gpt2_files,
)
from llm.tokenizers.learning import pre_tokenizer
from llm.tokenizers.vocabulary import VocabularyTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write the files from which `transformers.AutoTokenizer` builds the same tokenizer.

    Raises:
        TokenizerError: no such files can say what it does.
    """
    merges_file, vocabulary_file = gpt2_files()
    if isinstance(tokenizer, BPETokenizer) and tokenizer.encoding == "gpt2" and tokenizer.added:
        tokenizer = as_byte_pairs(tokenizer)
    if isinstance(tokenizer, BytePairTokenizer):
        vocabulary, merges = tokenizer.vocabulary | tokenizer.specials, tokenizer.merges()
        _write_json(folder / "vocab.json", vocabulary, compact=True)
        lines = "\n".join(f"{first} {second}" for first, second in merges)
        (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")
        to_fast(tokenizer, merges).save(str(folder / FAST))
    elif isinstance(tokenizer, BPETokenizer) and tokenizer.state() == BPETokenizer("gpt2").state():
        shutil.copyfile(vocabulary_file, folder / "vocab.json")
        shutil.copyfile(merges_file, folder / "merges.txt")
    elif isinstance(tokenizer, HuggingFaceTokenizer):
        (folder / FAST).write_text(tokenizer.definition, encoding="utf-8")
    elif isinstance(tokenizer, VocabularyTokenizer):
        to_word_level(tokenizer).save(str(folder / FAST))
    else:
        raise TokenizerError(f"no files can say what the tokenizer {tokenizer!r} does")
    is_gpt2 = isinstance(tokenizer, BPETokenizer) and getattr(tokenizer, "pattern", "gpt2") == "gpt2"
    settings: dict[str, Any] = {
        # GPT2Tokenizer splits by GPT-2's pattern; the other class takes tokenizer.json as it is.
        "tokenizer_class": "GPT2Tokenizer" if is_gpt2 else "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        **stated_tokens(tokenizer),
    }
    if not isinstance(tokenizer, HuggingFaceTokenizer):  # whose tokenizer.json says more of them
        settings["added_tokens_decoder"] = {
            str(token_id): {"content": special, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
            for special, token_id in tokenizer.special_ids.items()
        }
    _write_json(folder / SETTINGS, settings)


def definition_of(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of the `tokenizer.json` that says what a tokenizer does.

    Raises:
        TokenizerError: none can.
    """
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return dict(json.loads(tokenizer.definition))
    if isinstance(tokenizer, BPETokenizer) and tokenizer.encoding in ("gpt2", "byte_pairs"):
        return dict(json.loads(to_fast(as_byte_pairs(tokenizer)).to_str()))
    if isinstance(tokenizer, VocabularyTokenizer):
        return dict(json.loads(to_word_level(tokenizer).to_str()))
    raise TokenizerError(f"no files can say what the tokenizer {tokenizer!r} does")


def to_fast(tokenizer: BytePairTokenizer, merges: Sequence[tuple[str, str]] | None = None) -> FastTokenizer:
    """The same encoding in `tokenizers`, the library; its file is `tokenizer.json`."""
    from tokenizers import AddedToken, decoders, models
    from tokenizers import Tokenizer as FastTokenizer

    pairs = tokenizer.merges() if merges is None else list(merges)
    fast = FastTokenizer(models.BPE(tokenizer.vocabulary | tokenizer.specials, pairs))
    fast.pre_tokenizer = pre_tokenizer(tokenizer.pattern)
    fast.decoder = decoders.ByteLevel()
    specials = sorted(tokenizer.specials, key=tokenizer.specials.__getitem__)
    fast.add_special_tokens([AddedToken(special, normalized=False) for special in specials])
    return fast


def _write_json(path: Path, content: dict[str, Any], compact: bool = False) -> None:
    path.write_text(json.dumps(content, indent=None if compact else 2, ensure_ascii=False) + "\n", encoding="utf-8")


def as_byte_pairs(tokenizer: BPETokenizer) -> BytePairTokenizer:
    """GPT-2's encoding, or one of its own vocabulary, as one of its own vocabulary."""
    if isinstance(tokenizer, BytePairTokenizer):
        return tokenizer
    found = from_merges(read_json(gpt2_files()[1]), gpt2_merges(), tokenizer.special_ids)
    return found.with_roles(tokenizer.roles)
