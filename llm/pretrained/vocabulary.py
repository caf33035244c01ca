"""The tokenizer that belongs to weights: found in the files beside them, and written beside them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llm.config import GPTConfig
from llm.errors import CheckpointError, TokenizerError
from llm.pretrained.base import Pretrained
from llm.pretrained.files import read_json
from llm.tokenizers import (
    SPLIT_PATTERNS,
    BPETokenizer,
    BytePairTokenizer,
    Tokenizer,
    from_merges,
    gpt2_files,
)
from llm.tokenizers.learning import pre_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer as FastTokenizer

_GPT2_VOCAB_SIZE = 50257
_FAST = "tokenizer.json"
"""What `tokenizers` reads and writes: everything in one file."""


class _Vocabulary(NamedTuple):
    """What tokenizer files say: tokens and ids, the pairs that are joined, and tokens added beside."""

    tokens: dict[str, int]
    merges: list[tuple[str, str]]
    added: dict[str, int]
    pattern: str


def add_tokenizer(found: Pretrained, folder: Path | None) -> Pretrained:
    """The weights with their tokenizer, if it can be determined.

    It is the one whose files are in the folder; without such files, GPT-2's, if the vocabulary is at least as large.
    Rows of the tables that it has no token for become padding: they are kept, and never generated.

    Args:
        found: weights that have no tokenizer yet.
        folder: where tokenizer files are looked for, or None.
    """
    config, notes = found.config, list(found.notes)
    tokenizer: Tokenizer | None = None
    try:
        vocabulary = None if folder is None else _read_vocabulary(folder)
        if vocabulary is not None:
            tokenizer = _build(vocabulary)
        elif config.vocab_size >= _GPT2_VOCAB_SIZE:
            tokenizer = BPETokenizer("gpt2")
            notes.append("there are no tokenizer files: taken for GPT-2's")
        else:
            notes.append("there are no tokenizer files: imported without a tokenizer")
        if tokenizer is not None and tokenizer.vocab_size > config.vocab_size:
            raise TokenizerError(f"it has {tokenizer.vocab_size} tokens, the model {config.vocab_size}")
    except (CheckpointError, ValueError, KeyError, TypeError, AttributeError) as error:  # also what is no such file
        tokenizer = None
        notes.append(f"the tokenizer in {str(folder)!r} can't be used ({error}): imported without one")
    if tokenizer is not None and tokenizer.vocab_size < config.vocab_size:
        unnamed = config.vocab_size - tokenizer.vocab_size
        notes.append(f"the last {unnamed} of {config.vocab_size} rows have no token: kept as padding")
        config = pad_vocabulary(config, tokenizer.vocab_size)
    return dataclasses.replace(found, config=config, tokenizer=tokenizer, notes=tuple(notes))


def pad_vocabulary(config: GPTConfig, vocab_size: int) -> GPTConfig:
    """The same tables with fewer tokens: the rows from `vocab_size` on are padding."""
    rows = config.vocab_size
    powers = (2**exponent for exponent in range(10, 0, -1))
    multiple = next((power for power in powers if -(-vocab_size // power) * power == rows), rows)
    return dataclasses.replace(config, vocab_size=vocab_size, vocab_multiple=multiple)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, context_length: int) -> None:
    """Write the files from which `transformers.AutoTokenizer` builds the same tokenizer.

    Raises:
        TokenizerError: it is not GPT-2's kind of byte-pair encoding.
    """
    merges_file, vocabulary_file = gpt2_files()
    if isinstance(tokenizer, BytePairTokenizer):
        vocabulary, merges = tokenizer.vocabulary | tokenizer.specials, tokenizer.merges()
        _write_json(folder / "vocab.json", vocabulary, compact=True)
        lines = "\n".join(f"{first} {second}" for first, second in merges)
        (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")
        to_fast(tokenizer, merges).save(str(folder / _FAST))
    elif tokenizer == BPETokenizer("gpt2"):
        shutil.copyfile(vocabulary_file, folder / "vocab.json")
        shutil.copyfile(merges_file, folder / "merges.txt")
    else:
        raise TokenizerError(f"GPT-2's format has no place for the tokenizer {tokenizer!r}")
    pattern = getattr(tokenizer, "pattern", "gpt2")
    end = tokenizer.end_of_text_id
    name = next((name for name, token_id in tokenizer.special_ids.items() if token_id == end), None)
    settings: dict[str, Any] = {
        # GPT2Tokenizer splits by GPT-2's pattern; the other class takes tokenizer.json as it is.
        "tokenizer_class": "GPT2Tokenizer" if pattern == "gpt2" else "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {
            str(token_id): {"content": special, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
            for special, token_id in tokenizer.special_ids.items()
        },
    }
    settings |= dict.fromkeys(("bos_token", "eos_token", "unk_token"), name)
    _write_json(folder / "tokenizer_config.json", settings)


def to_fast(tokenizer: BytePairTokenizer, merges: Sequence[tuple[str, str]]) -> FastTokenizer:
    """The same encoding in `tokenizers`, the library; its file is `tokenizer.json`."""
    from tokenizers import AddedToken, decoders, models
    from tokenizers import Tokenizer as FastTokenizer

    fast = FastTokenizer(models.BPE(tokenizer.vocabulary | tokenizer.specials, list(merges)))
    fast.pre_tokenizer = pre_tokenizer(tokenizer.pattern)
    fast.decoder = decoders.ByteLevel()
    specials = sorted(tokenizer.specials, key=tokenizer.specials.__getitem__)
    fast.add_special_tokens([AddedToken(special, normalized=False) for special in specials])
    return fast


def _read_vocabulary(folder: Path) -> _Vocabulary | None:
    """What the tokenizer files of a folder say, or None if there are none."""
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        pairs = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
        tokens = read_json(folder / "vocab.json")
        added = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").is_file() else {}
        if (folder / "tokenizer_config.json").is_file():
            more = read_json(folder / "tokenizer_config.json").get("added_tokens_decoder", {})
            added |= {token["content"]: int(token_id) for token_id, token in more.items()}
    elif (folder / _FAST).is_file():
        content = read_json(folder / _FAST)
        model = content.get("model", {})
        if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
            raise TokenizerError(f"{_FAST} is of type {model.get('type')!r}, not BPE")
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])]
        tokens = model["vocab"]
        added = {token["content"]: int(token["id"]) for token in content.get("added_tokens", [])}
    else:
        return None
    if not all(len(pair) == 2 for pair in pairs):
        raise TokenizerError("a line of the merges is not a pair")
    pattern = _split_pattern(read_json(folder / _FAST)) if (folder / _FAST).is_file() else "gpt2"
    return _Vocabulary(tokens, [(first, second) for first, second in pairs], added, pattern)


def _split_pattern(content: dict[str, Any]) -> str:
    """Which of `SPLIT_PATTERNS` a `tokenizer.json` splits a text by.

    Raises:
        TokenizerError: another one, or it changes the text.
    """
    if content.get("normalizer") is not None:
        raise TokenizerError(f"{_FAST} has a normalizer, and byte pairs here leave a text as it is")
    step = content.get("pre_tokenizer") or {}
    steps = step.get("pretokenizers", []) if step.get("type") == "Sequence" else [step]
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"] and steps[0].get("use_regex", True):
        return "gpt2"
    if kinds == ["Split", "ByteLevel"] and steps[0].get("behavior") == "Isolated":
        regex = steps[0].get("pattern", {}).get("Regex")
        if found := next((name for name, pattern in SPLIT_PATTERNS.items() if pattern == regex), None):
            return found
    raise TokenizerError(f"{_FAST} splits a text by another pattern than GPT-2's or GPT-4's")


def _build(vocabulary: _Vocabulary) -> Tokenizer:
    tokens, merges, added, pattern = vocabulary
    if (
        pattern == "gpt2"
        and not added.keys() - tokens.keys()
        and tokens == read_json(gpt2_files()[1])
        and merges == _gpt2_merges()
    ):
        return BPETokenizer("gpt2")
    return from_merges(tokens, merges, added, pattern)


def _gpt2_merges() -> Sequence[tuple[str, str]]:
    lines = gpt2_files()[0].read_text(encoding="utf-8").split("\n")[1:]
    return [(first, second) for first, _, second in (line.partition(" ") for line in lines if line)]


def _write_json(path: Path, content: dict[str, Any], compact: bool = False) -> None:
    path.write_text(json.dumps(content, indent=None if compact else 2, ensure_ascii=False) + "\n", encoding="utf-8")
