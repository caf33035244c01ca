"""Hugging Face's tokenizer files, as they lie beside weights, read."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llm.errors import TokenizerError
from llm.pretrained.definitions import added_token, around, byte_pairs
from llm.pretrained.files import read_json
from llm.pretrained.roles import SETTINGS, SPECIALS, name_of, read_optional
from llm.pretrained.sentencepiece_files import convert_sentencepiece, find_sentencepiece
from llm.tokenizers import (
    END_OF_TEXT,
    SPLIT_PATTERNS,
    BPETokenizer,
    BytePairTokenizer,
    HuggingFaceTokenizer,
    Roles,
    Tokenizer,
    from_merges,
    gpt2_files,
)
from llm.tokenizers.byte_pairs import PRINTABLE, UnorderedError

FAST = "tokenizer.json"
"""What `tokenizers` reads and writes: everything in one file."""

_GPT2_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast")
_COMPOSING = {"Qwen2Tokenizer": "qwen2", "GPTNeoXTokenizer": "gpt-2"}
"""Classes that compose characters first (Unicode's NFC), and how they split a text; the others split as GPT-2's."""
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized")


def read_tokenizer_files(folder: Path) -> Tokenizer | None:
    """The tokenizer whose files are in a folder, or None if there are none.

    Raises:
        CheckpointError: a file is not JSON.
        TokenizerError: they describe no tokenizer, or are in a format that is not read.
    """
    settings = read_optional(folder / SETTINGS)
    if (folder / FAST).is_file():
        return from_definition(read_json(folder / FAST), settings)
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return _read_merges(folder, settings)
    if (folder / "vocab.txt").is_file():
        return read_word_pieces(folder / "vocab.txt", settings)
    if (pieces := find_sentencepiece(folder)) is not None:
        return from_definition(convert_sentencepiece(pieces), settings)
    return None


def from_definition(content: dict[str, Any], settings: Mapping[str, Any] | None = None) -> Tokenizer:
    """The tokenizer of a `tokenizer.json`: by tiktoken where that gives the same ids, sooner, else by `tokenizers`.

    Args:
        content: of the file.
        settings: of the `tokenizer_config.json` beside it, which may add tokens.

    Raises:
        TokenizerError: it describes no tokenizer.
    """
    content = _with_settings(content, settings or {})
    try:
        found = _byte_pairs(content)
    except TokenizerError:  # its merges and ids are in another order, for instance
        found = None
    return HuggingFaceTokenizer(json.dumps(content, ensure_ascii=False)) if found is None else found


def _with_settings(content: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A `tokenizer.json` with what `tokenizer_config.json` changes of it."""
    content = dict(content)
    added = list(content.get("added_tokens") or [])
    ids = {token["id"] for token in added}
    for token_id, token in sorted(settings.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0])):
        if int(token_id) not in ids:
            flags = {flag: bool(token.get(flag)) for flag in _FLAGS}
            added.append({"id": int(token_id), **flags, "content": token["content"], "special": bool(token["special"])})
    content["added_tokens"] = sorted(added, key=lambda token: token["id"])
    step = content.get("pre_tokenizer") or {}
    is_gpt2 = settings.get("tokenizer_class") in _GPT2_CLASSES and step.get("type") == "ByteLevel"
    if is_gpt2 and "add_prefix_space" in settings:
        content["pre_tokenizer"] = {**step, "add_prefix_space": bool(settings["add_prefix_space"])}
    return content


def _byte_pairs(content: Mapping[str, Any]) -> BPETokenizer | None:
    """The tokenizer of a `tokenizer.json` that tiktoken encodes as it says, or None."""
    model, added = content.get("model") or {}, content["added_tokens"]
    pattern = _split_pattern(content.get("pre_tokenizer") or {})
    changed = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
    names = sorted(token["content"] for token in added)
    if (
        model.get("type") != "BPE"
        or pattern is None
        or content.get("normalizer") is not None
        or _adds_tokens(content.get("post_processor"))
        or (content.get("decoder") or {}).get("type") != "ByteLevel"
        or any(model.get(name) for name in changed)
        or any(token[flag] for token in added for flag in ("single_word", "lstrip", "rstrip"))
        or not all(token["special"] for token in added)
        or any(longer.startswith(name) for name, longer in itertools.pairwise(names))
    ):
        return None
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    found = _build(model["vocab"], pairs, {token["content"]: token["id"] for token in added}, pattern)
    # tiktoken joins whatever makes a token: only if each is made in one way, and that the given one, is it the same.
    if isinstance(found, BytePairTokenizer) and found.merges() != pairs:
        return None
    return found


def _adds_tokens(post_processor: Mapping[str, Any] | None) -> bool:
    """Whether tokens are put around a text."""
    if post_processor is None or post_processor["type"] == "ByteLevel":
        return False
    return post_processor["type"] != "TemplateProcessing" or bool(post_processor["special_tokens"])


def _split_pattern(step: Mapping[str, Any]) -> str | None:
    """Which of `SPLIT_PATTERNS` a pre-tokenizer of byte-level pairs splits a text by; None for any other."""
    steps = step.get("pretokenizers", []) if step.get("type") == "Sequence" else [step]
    kinds = [step.get("type") for step in steps]
    if kinds[-1:] != ["ByteLevel"] or steps[-1].get("add_prefix_space"):
        return None
    if kinds == ["ByteLevel"]:
        return "gpt2" if steps[0].get("use_regex", True) else None
    if kinds != ["Split", "ByteLevel"] or steps[1].get("use_regex", True) or steps[0].get("invert"):
        return None
    regex = steps[0].get("pattern", {}).get("Regex") if steps[0].get("behavior") == "Isolated" else None
    return next((name for name, pattern in SPLIT_PATTERNS.items() if pattern == regex), None)


def _read_merges(folder: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """GPT-2's two files."""
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line.strip() and not line.startswith("#version")]
    vocabulary, specials = read_json(folder / "vocab.json"), read_optional(folder / "added_tokens.json")
    for token_id, token in settings.get("added_tokens_decoder", {}).items():
        specials[token["content"]] = int(token_id)
    named = {**read_optional(folder / SPECIALS), **settings}
    begin, end, *others = (name_of(named.get(f"{role}_token")) for role in ("bos", "eos", "unk", "pad"))
    split, found = _COMPOSING.get(str(settings.get("tokenizer_class")).removesuffix("Fast")), None
    try:
        if split is None:
            found = _build(vocabulary, pairs, specials, "gpt2")
            specials = found.special_ids
    except UnorderedError:  # as those of OPT
        pass
    if found is None:
        _refuse_cut_short(vocabulary, pairs)
        specials |= {name: vocabulary[name] for name in (begin, end, *others) if name in vocabulary}
    first, last = (
        (name, specials[name]) if settings.get(f"add_{role}_token") and name in specials else None
        for role, name in (("bos", begin or END_OF_TEXT), ("eos", end or END_OF_TEXT))
    )
    adds_space = bool(settings.get("add_prefix_space"))
    if found is not None and not (adds_space or first or last):
        return found
    content = byte_pairs(vocabulary | specials, [" ".join(pair) for pair in pairs], split or "gpt-2")
    content["normalizer"] = None if split is None else {"type": "NFC"}
    if adds_space:
        content["pre_tokenizer"] = {**content["pre_tokenizer"], "add_prefix_space": True}
    content["post_processor"] = around(first, last)
    in_order = sorted(specials.items(), key=lambda special: special[1])
    content["added_tokens"] = [added_token(name, token_id) for name, token_id in in_order]
    return HuggingFaceTokenizer(json.dumps(content, ensure_ascii=False))


def _refuse_cut_short(vocabulary: Mapping[str, int], pairs: Sequence[tuple[str, ...]]) -> None:
    """Refuse merges that make few of the tokens. (OPT has three of 50,265 that none makes, and no text has.)"""
    unjoined = vocabulary.keys() - {"".join(pair) for pair in pairs} - set(PRINTABLE.values())
    if len(unjoined) > max(8, len(vocabulary) // 100):
        raise TokenizerError(f"{len(unjoined):,} tokens of the vocabulary are joined by no merges: they are cut short")


def _build(
    tokens: dict[str, int], pairs: Sequence[tuple[str, ...]], added: dict[str, int], pattern: str
) -> BPETokenizer:
    merges = [(pair[0], pair[-1]) for pair in pairs]
    if not all(len(pair) == 2 for pair in pairs):
        raise TokenizerError("a line of the merges is not a pair")
    if (
        pattern == "gpt2"
        and not added.keys() - tokens.keys()
        and tokens == read_json(gpt2_files()[1])
        and merges == gpt2_merges()
    ):
        return BPETokenizer("gpt2")
    return from_merges(tokens, merges, added, pattern)


def gpt2_merges() -> Sequence[tuple[str, str]]:
    """The merges of GPT-2's own vocabulary, in order."""
    lines = gpt2_files()[0].read_text(encoding="utf-8").split("\n")[1:]
    return [(first, second) for first, _, second in (line.partition(" ") for line in lines if line)]


def read_word_pieces(path: Path, settings: Mapping[str, Any] | None = None) -> HuggingFaceTokenizer:
    """The tokenizer of BERT's `vocab.txt`, one token a line.

    Args:
        path: the file.
        settings: of the `tokenizer_config.json` beside it: `do_lower_case` and the names of special tokens.

    Raises:
        TokenizerError: a token is there twice, or its special tokens are not.
    """
    from tokenizers import Tokenizer as FastTokenizer
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

    settings = settings or {}
    tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    names = {role: str(settings.get(f"{role}_token", f"[{role.upper()}]")) for role in ("unk", "cls", "sep")}
    if len(ids) != len(tokens) or (missing := [name for name in names.values() if name not in ids]):
        what = "holds a token twice" if len(ids) != len(tokens) else f"has no {missing[0]}"
        raise TokenizerError(f"{str(path)!r} is no vocabulary of BERT's: it {what}")
    fast = FastTokenizer(models.WordPiece(ids, unk_token=names["unk"]))
    lowercase, chinese = settings.get("do_lower_case", True), settings.get("tokenize_chinese_chars", True)
    strip = settings.get("strip_accents")
    fast.normalizer = normalizers.BertNormalizer(True, chinese, strip, lowercase)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece()
    around = [(names["sep"], ids[names["sep"]]), (names["cls"], ids[names["cls"]])]
    single = f"{names['cls']} $A {names['sep']}"
    fast.post_processor = processors.TemplateProcessing(single, f"{single} $B:1 {names['sep']}:1", around)
    others = {role: str(settings.get(f"{role}_token", f"[{role.upper()}]")) for role in ("pad", "mask")}
    fast.add_special_tokens([token for token in dict.fromkeys((*names.values(), *others.values())) if token in ids])
    roles = Roles(
        pad_id=ids.get(others["pad"]),
        unknown_id=ids[names["unk"]],
        mask_id=ids.get(others["mask"]),
        separator_id=ids[names["sep"]],
        classifier_id=ids[names["cls"]],
    )
    return HuggingFaceTokenizer(fast.to_str()).with_roles(roles)
