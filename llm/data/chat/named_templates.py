"""The chat templates that have a name, as Jinja."""

from __future__ import annotations

_ALPACA = """\
{%- if messages[0]['role'] == 'system' -%}{{ messages[0]['content'] }}
{%- else -%}Below is an instruction that describes a task. Write a response that appropriately completes the request.
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{ '\\n\\n### Instruction:\\n' + (message['instruction'] or message['content']) -}}
{{ '\\n\\n### Input:\\n' + message['input'] if message['input'] -}}
{%- elif message['role'] == 'assistant' -%}
{{ '\\n\\n### Response:\\n' -}}
{%- generation -%}{{ message['content'] + eos_token }}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '\\n\\n### Response:\\n' }}{%- endif -%}
"""
_PHI3 = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ message['content'] + '<|end|>' }}{%- endgeneration -%}
{%- else -%}{{ message['content'] + '<|end|>' }}{%- endif -%}
{{ '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>\\n' }}{%- endif -%}
"""
_CHATML = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ message['content'] + '<|im_end|>' }}{%- endgeneration -%}
{%- else -%}{{ message['content'] + '<|im_end|>' }}{%- endif -%}
{{ '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
_PLAIN = """\
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}{{ message['content'] + eos_token }}{%- endgeneration -%}
{%- else -%}{{ message['content'] + '\\n' }}{%- endif -%}
{%- endfor -%}
"""
NAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    "alpaca": (_ALPACA, ()),
    "phi3": (_PHI3, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
    "chatml": (_CHATML, ("<|im_start|>", "<|im_end|>")),
    "plain": (_PLAIN, ()),
}
"""The templates with a name: their source, and the special tokens that they need. Alpaca's is that of Taori et al.
2023, as the book LLMs-from-scratch has it; `plain` is a prompt, a line break, and its completion."""
