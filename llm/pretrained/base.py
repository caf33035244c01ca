"""What every format is read into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from llm.config import GPTConfig
from llm.config.tasks import LANGUAGE
from llm.model import Network
from llm.pretrained.layout import Tensors
from llm.tokenizers import Tokenizer

AnyNetwork = TypeVar("AnyNetwork", bound=Network)


class Loaded(NamedTuple, Generic[AnyNetwork]):
    """A trained network and its tokenizer."""

    model: AnyNetwork
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Pretrained:
    """Weights with all that is needed to use them.

    Args:
        format: where they come from, such as `Hugging Face`.
        config: the architecture.
        weights: every tensor of that network, by our names; a shared head is there twice, as the same tensor.
        tokenizer: or None, if the file has none.
        notes: what a user should know, a sentence each.
        no_tokenizer: the one of them that says why there is no tokenizer; None if there is one, or nothing says why.
        task: that they were trained for.
        template: how a conversation becomes text, as `ChatTemplate.to_dict` describes it; None if it is not known.
        model_type: of the family that they were read as, and are written as; None if it is not known.
    """

    format: str
    config: GPTConfig
    weights: Tensors
    tokenizer: Tokenizer | None = None
    notes: tuple[str, ...] = ()
    no_tokenizer: str | None = None
    task: str = LANGUAGE
    template: dict[str, Any] | None = None
    model_type: str | None = None


Told = dict[str, Any]
"""Settings of `GPTConfig` that the user gives, for formats that don't store them: `n_head` and `activation`."""
