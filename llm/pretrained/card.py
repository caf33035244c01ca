"""A model card: the README of a folder with weights."""

from __future__ import annotations

from llm.config import EncoderConfig, GPTConfig

NAME = "README.md"
MARK = "<!-- Written by the export of see-inside-llm, which replaces it. -->"
"""A README without this line is somebody's own."""

_CARD = """---
library_name: transformers
pipeline_tag: {pipeline}
---
{mark}
# A language model

{what}, trained or fine-tuned with see-inside-llm.

| parameters | layers | heads | embedding size | context length | vocabulary |
|---|---|---|---|---|---|
| {parameters:,} | {of.n_layer} | {of.n_head} | {of.n_embd} | {of.context_length:,} | {of.vocab_size:,} |

{opening}

Before it is shared: say here what text it was trained on, under which license, how well it does and what it should not
be used for.
"""

_CAUSAL = "A causal language model"

_TEXT = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
ids = model.generate(**tokenizer("Once", return_tensors="pt", return_token_type_ids=False), max_new_tokens=50)
print(tokenizer.decode(ids[0]))
```"""

_MASKED = """```python
from transformers import pipeline

fill = pipeline("fill-mask", "FOLDER")
print(fill(f"It was a {fill.tokenizer.mask_token} day."))
```"""

_IDS = """```python
from transformers import {auto}

model = {auto}.from_pretrained("FOLDER")
```

There are no tokenizer files here ({reason}): the model reads and writes token ids. `AutoTokenizer` on this folder does
not give its tokenizer."""


def model_card(config: GPTConfig, n_parameters: int, no_tokenizer: str | None) -> str:
    """The card of a model, in Markdown.

    Args:
        config: the architecture.
        n_parameters: number of parameters, a shared head counted once.
        no_tokenizer: why there are no tokenizer files; None if there are.
    """
    masked = isinstance(config, EncoderConfig)
    what, pipeline = ("An encoder for masked words", "fill-mask") if masked else (_CAUSAL, "text-generation")
    auto = "AutoModelForMaskedLM" if masked else "AutoModelForCausalLM"
    opening = _MASKED if masked else _TEXT
    if no_tokenizer is not None:
        opening = _IDS.format(auto=auto, reason=no_tokenizer)
    return _CARD.format(mark=MARK, of=config, parameters=n_parameters, opening=opening, what=what, pipeline=pipeline)
