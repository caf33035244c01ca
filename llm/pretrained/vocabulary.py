"""The tokenizer that belongs to weights: found in the files beside them, and written beside them."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llm.config import GPTConfig
from llm.errors import CheckpointError, TokenizerError
from llm.pretrained.base import Pretrained
from llm.pretrained.files import read_json
from llm.tokenizers import BPETokenizer, BytePairTokenizer, Tokenizer, from_merges, gpt2_files

_GPT2_VOCAB_SIZE = 50257


class _Vocabulary(NamedTuple):
    """What tokenizer files say: tokens and ids, the pairs that are joined, and tokens added beside."""

    tokens: dict[str, int]
    merges: list[tuple[str, str]]
    added: dict[str, int]


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
        vocabulary = tokenizer.vocabulary | tokenizer.specials
        _write_json(folder / "vocab.json", vocabulary, compact=True)
        merges = "\n".join(f"{first} {second}" for first, second in tokenizer.merges())
        (folder / "merges.txt").write_text(f"#version: 0.2\n{merges}\n", encoding="utf-8")
    elif tokenizer == BPETokenizer("gpt2"):
        shutil.copyfile(vocabulary_file, folder / "vocab.json")
        shutil.copyfile(merges_file, folder / "merges.txt")
    else:
        raise TokenizerError(f"GPT-2's format has no place for the tokenizer {tokenizer!r}")
    end = tokenizer.end_of_text_id
    name = next((name for name, token_id in tokenizer.special_ids.items() if token_id == end), None)
    settings: dict[str, Any] = {
        "tokenizer_class": "GPT2Tokenizer",
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
    elif (folder / "tokenizer.json").is_file():
        content = read_json(folder / "tokenizer.json")
        model = content.get("model", {})
        if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
            raise TokenizerError(f"tokenizer.json is of type {model.get('type')!r}, not BPE")
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])]
        tokens = model["vocab"]
        added = {token["content"]: int(token["id"]) for token in content.get("added_tokens", [])}
    else:
        return None
    if not all(len(pair) == 2 for pair in pairs):
        raise TokenizerError("a line of the merges is not a pair")
    return _Vocabulary(tokens, [(first, second) for first, second in pairs], added)


def _build(vocabulary: _Vocabulary) -> Tokenizer:
    tokens, merges, added = vocabulary
    if not added.keys() - tokens.keys() and tokens == read_json(gpt2_files()[1]) and merges == _gpt2_merges():
        return BPETokenizer("gpt2")
    return from_merges(tokens, merges, added)


def _gpt2_merges() -> Sequence[tuple[str, str]]:
    lines = gpt2_files()[0].read_text(encoding="utf-8").split("\n")[1:]
    return [(first, second) for first, _, second in (line.partition(" ") for line in lines if line)]


def _write_json(path: Path, content: dict[str, Any], compact: bool = False) -> None:
    path.write_text(json.dumps(content, indent=None if compact else 2, ensure_ascii=False) + "\n", encoding="utf-8")
