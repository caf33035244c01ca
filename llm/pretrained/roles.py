"""What special tokens are for, and the chat template: read from the files beside weights, and written there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llm.errors import CheckpointError, first_line_of
from llm.pretrained.files import read_json
from llm.tokenizers import BPETokenizer, Roles, Tokenizer
from llm.tokenizers.vocabulary import UNKNOWN_TOKENS

SETTINGS, SPECIALS = "tokenizer_config.json", "special_tokens_map.json"
_GENERATION = "generation_config.json"
_TEMPLATE = "chat_template.jinja"

_NAMES = {
    "begin_id": "bos",
    "pad_id": "pad",
    "unknown_id": "unk",
    "mask_id": "mask",
    "separator_id": "sep",
    "classifier_id": "cls",
}
"""What Hugging Face calls the roles that one token has: `bos_token` in one file, `bos_token_id` in another."""


def read_roles(folder: Path, tokenizer: Tokenizer, notes: list[str]) -> Roles:
    """What the files of a folder state, `tokenizer_config.json` before the model's own.

    Args:
        folder: with the files.
        tokenizer: whose special tokens they are.
        notes: a begin or an end of text that is no token of it is told to the user.

    Raises:
        CheckpointError: a file is not JSON, or not text.
    """
    settings = read_optional(folder / SPECIALS) | read_optional(folder / SETTINGS)
    model, generation = read_optional(folder / "config.json"), read_optional(folder / _GENERATION)
    ids = {}
    for role, name in _NAMES.items():
        stated = _find(tokenizer, settings.get(f"{name}_token"))
        stated = _known(tokenizer, model.get(f"{name}_token_id")) if stated is None else stated
        ids[role] = getattr(tokenizer.roles, role) if stated is None else stated
    end = _find(tokenizer, settings.get("eos_token"))
    for part, name in (("begin", "bos_token"), ("end", "eos_token")):  # a padding token that is missing pads nothing
        if (named := name_of(settings.get(name))) is not None and _find(tokenizer, named) is None:
            notes.append(f"the {part} of text {named!r} in {str(folder)!r} is no token of its tokenizer: not used")
    ends = [] if end is None else [end]
    if not generation.get("_from_model_config"):
        ends += _listed(generation.get("eos_token_id"))
    ends = ends or _listed(model.get("eos_token_id"))
    known = [token_id for token_id in ends if token_id in range(tokenizer.vocab_size)]
    if ends and not known:
        notes.append(f"the end of text {ends} in {str(folder)!r} is no token of its tokenizer: not used")
    return Roles(**ids, end_ids=tuple(dict.fromkeys(known)), chat_template=_chat_template(folder, settings))


def stated_tokens(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizer_config.json` says of the special tokens, and the chat template."""
    roles, end = tokenizer.roles, tokenizer.end_of_text_id
    ids = {"eos_token": end} | {f"{name}_token": getattr(roles, role) for role, name in _NAMES.items()}
    is_gpt2 = isinstance(tokenizer, BPETokenizer)
    if is_gpt2 and not roles.end_ids:  # GPT-2's one special token is all of them
        ids |= {name: end for name in ("bos_token", "unk_token") if ids[name] is None}
    elif ids["unk_token"] is None and not is_gpt2:
        ids["unk_token"] = next((i for name, i in tokenizer.special_ids.items() if name in UNKNOWN_TOKENS), None)
    stated: dict[str, Any] = dict.fromkeys(("bos_token", "eos_token", "unk_token"))  # null, or a class has its own
    for name, token_id in ids.items():
        if token_id is not None:
            stated[name] = tokenizer.token_bytes(token_id).decode("utf-8", "replace")
    return stated | ({} if roles.chat_template is None else {"chat_template": roles.chat_template})


def stated_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """What `config.json` and `generation_config.json` say of the same."""
    if tokenizer is None:
        return {"bos_token_id": None, "eos_token_id": None}
    roles, ends, begin = tokenizer.roles, list(tokenizer.end_ids), tokenizer.roles.begin_id
    if begin is None and isinstance(tokenizer, BPETokenizer):
        begin = tokenizer.end_of_text_id
    pad = {} if roles.pad_id is None else {"pad_token_id": roles.pad_id}
    return {"bos_token_id": begin, "eos_token_id": ends if len(ends) > 1 else (*ends, None)[0], **pad}


def read_optional(path: Path) -> dict[str, Any]:
    """The content of a JSON file, nothing if it is not there; raises as `read_json` does."""
    return read_json(path) if path.is_file() else {}


def name_of(token: Any) -> str | None:
    """The name of a token that is stated by name, or as a dict with its content; None if neither is."""
    name = token.get("content") if isinstance(token, Mapping) else token
    return name if isinstance(name, str) and name else None


def as_template(found: Any) -> str | None:
    """What is stated as a chat template; None if it is no string, or blank."""
    return found if isinstance(found, str) and found.strip() else None


def _find(tokenizer: Tokenizer, token: Any) -> int | None:
    """The id of a token that is stated."""
    if (name := name_of(token)) is None:
        return None
    if name in tokenizer.special_ids:
        return tokenizer.special_ids[name]
    found = tokenizer.encode(name)
    return found[0] if len(found) == 1 and tokenizer.token_bytes(found[0]) == name.encode() else None


def _known(tokenizer: Tokenizer, token_id: Any) -> int | None:
    return token_id if type(token_id) is int and token_id in range(tokenizer.vocab_size) else None


def _listed(ids: Any) -> list[int]:
    return [token_id for token_id in (ids if isinstance(ids, list) else [ids]) if type(token_id) is int]


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str | None:
    """The chat template, of several the one that is called `default`; None where it is blank, too.

    Raises:
        CheckpointError: its file can't be read.
    """
    if (path := folder / _TEMPLATE).is_file():
        try:
            found: Any = path.read_text(encoding="utf-8")
        except (OSError, UnicodeError) as error:
            raise CheckpointError(f"can't read the chat template {str(path)!r}: {first_line_of(error)}") from error
    else:
        found = settings.get("chat_template")
    if isinstance(found, list):
        templates = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, Mapping)}
        found = templates.get("default", next(iter(templates.values()), None))
    return as_template(found)
