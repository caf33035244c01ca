"""The words of tasks that are known below `llm.tasks`, where the table of all is."""

from __future__ import annotations

LANGUAGE = "language"
"""The task of a GPT that predicts the next token; also the task where none is named, on the command line, in a YAML
file, or in a checkpoint."""
INSTRUCT = "instruct"
MASKED = "masked"
CLASSIFY = "classify"
TRANSLATE = "translate"
WORD_VECTORS = "word_vectors"
NEXT_TOKEN_TASKS = (LANGUAGE, INSTRUCT)
"""The tasks whose network is such a GPT: what one has trained, another can begin with, and `generate` can use."""


def tasks_like(task: str) -> tuple[str, ...]:
    """The tasks whose checkpoints can be used as those of a task; one that answers also has a chat template."""
    return NEXT_TOKEN_TASKS if task in NEXT_TOKEN_TASKS else (task,)
