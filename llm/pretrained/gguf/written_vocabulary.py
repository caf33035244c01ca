"""A tokenizer and its chat template as the metadata of a GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llm.errors import TokenizerError
from llm.pretrained.definitions import SPLITS, scored_pieces
from llm.pretrained.gguf.vocabulary import CONTROL, NORMAL, OF_THE_USER, PREFIX, UNKNOWN, UNUSED
from llm.pretrained.written_tokenizer import definition_of
from llm.tokenizers import Tokenizer

NO_VOCABULARY = {f"{PREFIX}model": "none"}
"""What a file without a tokenizer says."""

_BYTE = 6
"""What llama.cpp says that the token of a byte is."""


def metadata_of_tokenizer(tokenizer: Tokenizer, n_rows: int) -> dict[str, Any]:
    """What a file says of a tokenizer, so that llama.cpp encodes a text as it does.

    Args:
        tokenizer: byte pairs that split a text by a rule that llama.cpp has, or SentencePiece's byte pairs.
        n_rows: of the token embedding; those that no token belongs to are named as unused.

    Raises:
        TokenizerError: llama.cpp has no such tokenizer.
    """
    content = definition_of(tokenizer)
    model, added = content.get("model") or {}, {token["id"]: token for token in content.get("added_tokens") or []}
    if model.get("type") != "BPE":
        raise TokenizerError(f"llama.cpp is told of byte pairs here, and this is {model.get('type')}")
    ids: dict[str, int] = model["vocab"] | {token["content"]: token_id for token_id, token in added.items()}
    if len(set(ids.values())) < len(ids) or max(ids.values()) >= n_rows:
        raise TokenizerError(f"its {len(ids):,} tokens and the {n_rows:,} rows of the embedding do not belong together")
    names = [f"[unused {token_id}]" for token_id in range(n_rows)]
    kinds = [UNUSED] * n_rows
    for name, token_id in ids.items():
        names[token_id], kinds[token_id] = name, NORMAL
    for token_id, token in added.items():
        kinds[token_id] = CONTROL if token["special"] else OF_THE_USER
    kind = _byte_pairs(content) or _pieces(content, names, kinds)
    return {**kind, f"{PREFIX}tokens": names, f"{PREFIX}token_type": kinds, **_roles(tokenizer)}


def _byte_pairs(content: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is said of byte-level pairs; None if these are none, or split a text in another way than llama.cpp can."""
    model = content["model"]
    if any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")):
        return None
    if content.get("normalizer") not in (None, {"type": "NFC"}):
        return None
    steps, ignores = _steps(content["pre_tokenizer"]), bool(model.get("ignore_merges"))
    known = [name for name, split in SPLITS.items() if _steps(split) == steps]
    fitting = [name for name in known if (name in _IGNORE_MERGES) == ignores]
    if not fitting:
        return None
    pairs = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
    merges = [" ".join(pair) for pair in pairs]
    return {f"{PREFIX}model": "gpt2", f"{PREFIX}pre": fitting[0], f"{PREFIX}merges": merges}


_IGNORE_MERGES = ("llama-bpe",)
"""Ways of splitting by whose name llama.cpp takes a piece that is a token as it is."""


def _pieces(content: Mapping[str, Any], names: list[str], kinds: list[int]) -> dict[str, Any]:
    """What is said of SentencePiece's pairs; the kinds of unknown and byte tokens are set."""
    model = content["model"]
    splits = f"it splits a text in a way that llama.cpp has no name for here; it has {', '.join(SPLITS)}"
    if not model.get("byte_fallback"):
        raise TokenizerError(splits)
    merges = [list(pair) if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    rank: dict[str, float] = {}
    for first, second in merges:
        rank.setdefault(first + second, -float(len(rank)))
    scores = [rank.get(name, -1e6) for name in names]
    pieces = list(dict(sorted(((token_id, name) for name, token_id in model["vocab"].items()))).values())
    steps = (content.get("normalizer") or {}).get("normalizers", [])
    adds_space = any(step["type"] == "Prepend" for step in steps)
    expected = scored_pieces(pieces, scores, model.get("unk_token"), adds_space)
    if content["normalizer"] != expected["normalizer"] or content.get("pre_tokenizer") is not None:
        raise TokenizerError(splits)
    if len(pieces) != max(model["vocab"].values()) + 1 or sorted(merges) != sorted(expected["model"]["merges"]):
        raise TokenizerError("its merges are not those that scores of its pieces give")
    for token_id, name in enumerate(names):
        if name == model.get("unk_token"):
            kinds[token_id] = UNKNOWN
        elif kinds[token_id] == NORMAL and len(name) == 6 and name.startswith("<0x"):
            kinds[token_id] = _BYTE
    return {f"{PREFIX}model": "llama", f"{PREFIX}pre": "default", f"{PREFIX}scores": scores,
            f"{PREFIX}add_space_prefix": adds_space}  # fmt: skip


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[str]:
    """The steps of a pre-tokenizer as JSON, so that they can be compared; offsets do not count."""
    step = pre_tokenizer or {}
    steps = step["pretokenizers"] if step.get("type") == "Sequence" else [step]
    plain = ({name: value for name, value in step.items() if name != "trim_offsets"} for step in steps)
    return [json.dumps(step, sort_keys=True) for step in plain]


def _roles(tokenizer: Tokenizer) -> dict[str, Any]:
    """What is said of special tokens, and the chat template."""
    roles, ends = tokenizer.roles, tokenizer.end_ids
    begin = tokenizer.encode_prompt("")[:1] if roles.begin_id is None else [roles.begin_id]
    ids = {
        "bos": begin[0] if begin else None,
        "eos": ends[0] if ends else None,
        "eot": ends[1] if len(ends) > 1 else None,
        "eom": ends[2] if len(ends) > 2 else None,
        "padding": roles.pad_id,
        "unknown": roles.unknown_id,
        "mask": roles.mask_id,
        "seperator": roles.separator_id,  # as the format spells it
        "cls": roles.classifier_id,
    }
    found: dict[str, Any] = {f"{PREFIX}{name}_token_id": token_id for name, token_id in ids.items()}
    found[f"{PREFIX}add_bos_token"] = bool(tokenizer.prefix_ids)
    found[f"{PREFIX}add_eos_token"] = bool(tokenizer.suffix_ids)
    found["tokenizer.chat_template"] = roles.chat_template
    return {name: value for name, value in found.items() if value is not None}
