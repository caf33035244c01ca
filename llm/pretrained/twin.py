"""The same model as one of `transformers`, in memory: what ours is compared with."""

from __future__ import annotations

from typing import Any

from llm.model import GPT
from llm.pretrained import huggingface


def hugging_face_twin(model: GPT) -> Any:
    """A `transformers.GPT2LMHeadModel` in eval mode with the weights of a model, copied.

    Raises:
        ConfigError: GPT-2's format has no place for this architecture.
        ImportError: `transformers` is not installed.
    """
    import transformers

    settings = huggingface.config_to_json(model.config, None)
    twin = transformers.GPT2LMHeadModel(transformers.GPT2Config(**settings))
    weights = model.state_dict()
    tensors = huggingface.LAYOUT.to_theirs(weights, model.config)
    huggingface.add_missing_biases(tensors, weights)
    theirs = huggingface.with_prefix(tensors)
    theirs.setdefault("lm_head.weight", theirs["transformer.wte.weight"])  # a shared head
    twin.load_state_dict(theirs)
    return twin.eval()
