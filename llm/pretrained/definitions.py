"""Tokenizers whose files hold tokens with merges or scores, as the content of a `tokenizer.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llm.tokenizers import SPLIT_PATTERNS

_SPACE = "▁"
"""Stands for a space in SentencePiece's vocabularies."""

_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


def _split_by(pattern: str) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, _BYTE_LEVEL]}


SPLITS: dict[str, dict[str, Any]] = {
    "gpt-2": {**_BYTE_LEVEL, "use_regex": True},
    "smollm": {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, {**_BYTE_LEVEL, "use_regex": True}],
    },
    "llama-bpe": _split_by(SPLIT_PATTERNS["gpt4"]),
    "dbrx": _split_by(SPLIT_PATTERNS["gpt4"]),
    "qwen2": _split_by(SPLIT_PATTERNS["gpt4"].replace(r"\p{N}{1,3}", r"\p{N}")),
}
"""How a text is split before bytes are joined, by llama.cpp's names (`tokenizer.ggml.pre`)."""


def byte_pairs(vocabulary: Mapping[str, int], merges: Sequence[str], split: str) -> dict[str, Any]:
    """Byte-level BPE.

    Args:
        vocabulary: every token and its id, in GPT-2's printable form.
        merges: pairs of tokens that are joined, with a space between them, in order.
        split: one of `SPLITS`.
    """
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {"type": "NFC"} if split == "qwen2" else None,
        "pre_tokenizer": SPLITS[split],
        "post_processor": None,
        "decoder": {**_BYTE_LEVEL, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": dict(vocabulary),
            "merges": [pair.split(" ") for pair in merges],
            "ignore_merges": split == "llama-bpe",
        },
    }


def scored_pieces(
    pieces: Sequence[str], scores: Sequence[float], unknown: str | None, adds_space: bool = True
) -> dict[str, Any]:
    """SentencePiece's BPE, where of all neighbours those are joined first whose piece has the highest score.

    Args:
        pieces: every token, a space as `▁`, a byte as `<0x0A>`.
        scores: of each.
        unknown: the token for what has none, not even as bytes.
        adds_space: whether a space is put before a text.
    """
    ids = {piece: token_id for token_id, piece in enumerate(pieces)}
    merges = [
        (-scores[token_id], ids[piece[:cut]], ids[piece[cut:]], piece[:cut], piece[cut:])
        for piece, token_id in ids.items()
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    before = [{"type": "Prepend", "prepend": _SPACE}] if adds_space else []
    after = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if adds_space else []
    return {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [*before, {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}],
        },
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                *after,
            ],
        },
        "model": {
            "type": "BPE",
            "vocab": ids,
            "merges": [[first, second] for *_, first, second in sorted(merges)],
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": True,
        },
    }


def added_token(name: str, token_id: int, is_special: bool = True) -> dict[str, Any]:
    """An entry of `added_tokens`: a token that is found in a text before anything is split."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": token_id, "content": name, **flags, "special": is_special}


def around(begin: tuple[str, int] | None, end: tuple[str, int] | None) -> dict[str, Any] | None:
    """The post-processor that puts tokens, each a name and an id, before and after a text; None for neither."""
    if begin is None and end is None:
        return None

    def one(kind: str) -> list[dict[str, Any]]:
        first, last = ([{"SpecialToken": {"id": token[0], "type_id": 0}}] if token else [] for token in (begin, end))
        return [*first, {"Sequence": {"id": kind, "type_id": 0}}, *last]

    tokens = [token for token in (begin, end) if token is not None]
    return {
        "type": "TemplateProcessing",
        "single": one("A"),
        "pair": one("A") + one("B"),
        "special_tokens": {name: {"id": name, "ids": [token_id], "tokens": [name]} for name, token_id in tokens},
    }
