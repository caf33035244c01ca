"""The same model as one of `transformers`, in memory: what ours is compared with."""

from __future__ import annotations

from typing import Any

from llm.model import GPT
from llm.pretrained.transformers_folder import to_hugging_face


def hugging_face_twin(model: GPT) -> Any:
    """A model of `transformers` in eval mode with the weights of ours, copied.

    Raises:
        ConfigError: none of its families has a place for this architecture.
        ImportError: `transformers` is not installed.
    """
    import transformers

    settings, tensors, _ = to_hugging_face(model.config, model.state_dict(), None)
    twin = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(**settings))
    tensors.pop("embed_out.weight", None)  # what GPT-NeoX' files call the head
    twin.load_state_dict({"lm_head.weight": model.head.weight, **tensors})  # a shared head is none of the tensors
    return twin.eval()
