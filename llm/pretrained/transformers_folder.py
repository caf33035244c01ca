"""Write a folder that `transformers` opens: `config.json`, tensors, and the files of the tokenizer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from llm.config import EncoderConfig, GPTConfig
from llm.errors import TokenizerError
from llm.pretrained import bert, card, huggingface
from llm.pretrained.base import Pretrained
from llm.pretrained.families import family_of
from llm.pretrained.layout import Tensors
from llm.pretrained.replacing import save_tensors, write_json
from llm.pretrained.roles import stated_ids
from llm.pretrained.written_tokenizer import write_tokenizer
from llm.runtime.words import counted
from llm.tokenizers import MASK, Tokenizer


def refuse_obstacles(pretrained: Pretrained) -> None:
    """Check that `transformers` has such an architecture.

    Raises:
        ConfigError: it has none; says what stands in the way.
    """
    if isinstance(pretrained.config, EncoderConfig):
        bert.refuse_obstacles(pretrained.config)
    else:
        family_of(pretrained.config, pretrained.model_type)


def write_folder(pretrained: Pretrained, folder: Path) -> list[str]:
    """Make the folder; gives what a user should know, a sentence each.

    Raises:
        ConfigError: `transformers` has no such architecture.
        OSError: it can't be written.
    """
    config, tokenizer = pretrained.config, pretrained.tokenizer
    if isinstance(config, EncoderConfig) and tokenizer is not None:
        tokenizer = _with_mask_role(tokenizer)
    notes = []
    end = None if tokenizer is None else tokenizer.end_of_text_id
    settings, tensors, adds_biases = to_hugging_face(config, pretrained.weights, end, pretrained.model_type)
    is_encoder = isinstance(config, EncoderConfig)
    if adds_biases:
        what = "BERT's format always has biases and segments" if is_encoder else "GPT-2's format always has biases"
        notes.append(f"{what}: where this model has none, zeros were written")
    if config.padded_vocab_size > config.vocab_size:
        padding = config.padded_vocab_size - config.vocab_size
        were = counted(padding, "row of padding was", "rows of padding were")
        notes.append(f"{were} omitted, which belong to no token")
    folder.mkdir()
    settings |= stated_ids(tokenizer)
    settings["dtype"] = str(pretrained.weights["embeddings.token.weight"].dtype).removeprefix("torch.")
    write_json(folder / "config.json", settings)
    if not is_encoder:
        write_json(folder / "generation_config.json", stated_ids(tokenizer))
    save_tensors(tensors, folder / "model.safetensors", {"format": "pt"})
    reason = "the weights came without a tokenizer" if tokenizer is None else None
    try:
        if tokenizer is not None:
            write_tokenizer(tokenizer, folder, config.context_length)
    except TokenizerError as error:
        reason = str(error)
    if reason is not None:
        notes.append(f"no tokenizer files were written: {reason}")
    n_parameters = sum(tensor.numel() for tensor in tensors.values())
    (folder / card.NAME).write_text(card.model_card(config, n_parameters, reason), encoding="utf-8")
    return notes


def to_hugging_face(
    config: GPTConfig, weights: Tensors, end_of_text_id: int | None, model_type: str | None = None
) -> tuple[dict[str, Any], Tensors, bool]:
    """The `config.json` and the tensors of the family that can hold an architecture, and whether biases were added.

    Args:
        config: the architecture.
        weights: by our names.
        end_of_text_id: or None.
        model_type: the family that they were read as, if it is known.

    Raises:
        ConfigError: none can.
    """
    if isinstance(config, EncoderConfig):
        bert.refuse_obstacles(config)
        tensors, added = bert.to_theirs(weights, config)
        return bert.config_to_json(config), tensors, added
    if (family := family_of(config, model_type)) is not None:
        tensors = family.layout.to_theirs(weights, config)
        return family.config_to_json(config, end_of_text_id), family.whole_names(tensors), False
    tensors = huggingface.LAYOUT.to_theirs(weights, config)
    adds_biases = huggingface.add_missing_biases(tensors, weights)
    return huggingface.config_to_json(config, end_of_text_id), huggingface.with_prefix(tensors), adds_biases


def _with_mask_role(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer of an encoder, which says which token is the mask."""
    mask_id = tokenizer.special_ids.get(MASK)
    if tokenizer.roles.mask_id is not None or mask_id is None:
        return tokenizer
    return tokenizer.with_roles(dataclasses.replace(tokenizer.roles, mask_id=mask_id))
