"""How a text is continued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.config.checks import checks

_MOST_SAMPLES = 10_000
"""All samples of a prompt are generated as one batch; more would fill the memory before the first one."""


@dataclass(frozen=True)
class SamplingConfig:
    """How a text is continued: how each next token is chosen from the logits, and when to stop.

    In this order: the repetition penalty, the temperature, then `top_k`, `top_p` and `min_p`, each on what the one
    before it left.

    Args:
        max_new_tokens: how many to generate at most.
        temperature: divides the logits; below 1 sharper, above 1 flatter, 0 always takes the most likely (greedy).
        top_k: choose among the k most likely tokens only.
        top_p: choose among the most likely tokens that together reach this probability (nucleus sampling: Holtzman et
            al. 2019).
        min_p: exclude tokens less likely than this fraction of the most likely one's probability (Nguyen et al.
            2024).
        repetition_penalty: makes tokens that are already in the text less likely; 1 does nothing, 1.2 is usual
            (CTRL: Keskar et al. 2019, section 4.1).
        stop: strings at which to end, such as a line break; neither they nor what follows them is returned.
        stop_ids: tokens at which to end, besides the tokenizer's end of text; not returned either.
        n_samples: continuations of each prompt.
        seed: of the random choices: the same seed, model and prompt give the same text, whatever else is in the
            batch.
        compile: `always` compiles the decoding of a token with torch.compile, which takes some seconds and then makes
            each token cheaper; `never` does not; `auto` does where it pays off.
        prompt_lookup: prompt lookup decoding: where the last tokens occurred earlier in the text, guess that this many
            tokens follow as they did there, and verify them all in one step: the same text, sooner. For a single
            prompt; 0 turns it off.
    """

    max_new_tokens: int = 60
    temperature: float = 0.8
    top_k: int | None = 50
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    n_samples: int = 1
    seed: int = 123
    compile: Literal["auto", "always", "never"] = "auto"
    prompt_lookup: int = 3

    def __post_init__(self) -> None:
        with checks(self) as check:
            check(not isinstance(self.stop, str), f"stop must be a list of strings, got the string {self.stop!r}")
            object.__setattr__(self, "stop", tuple(self.stop))
            object.__setattr__(self, "stop_ids", tuple(self.stop_ids))
            check(all(self.stop), "stop holds an empty string, which every text contains")
            check(all(token >= 0 for token in self.stop_ids), f"stop_ids must be at least 0, got {self.stop_ids}")
            check(self.n_samples >= 1, f"n_samples must be at least 1, got {self.n_samples}")
            check(self.n_samples <= _MOST_SAMPLES, f"n_samples must be at most {_MOST_SAMPLES}, got {self.n_samples}")
            check(self.min_p is None or 0 <= self.min_p <= 1, f"min_p must be from 0 to 1, got {self.min_p}")
            check(
                0 < self.repetition_penalty < float("inf"),
                f"repetition_penalty must be above 0, got {self.repetition_penalty}",
            )
            check(self.prompt_lookup >= 0, f"prompt_lookup must be at least 0, got {self.prompt_lookup}")
            check(self.max_new_tokens >= 1, f"max_new_tokens must be at least 1, got {self.max_new_tokens}")
            check(0 <= self.temperature < float("inf"), f"temperature must be at least 0, got {self.temperature}")
            check(self.top_k is None or self.top_k >= 1, f"top_k must be at least 1, got {self.top_k}")
            check(
                self.top_p is None or 0 < self.top_p <= 1,
                f"top_p must be above 0 and at most 1, got {self.top_p}",
            )
            check(0 <= self.seed < 2**63, f"seed must be from 0 to 2**63 - 1, got {self.seed}")
