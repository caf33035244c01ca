"""Which tokenizer, and its options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llm.config.checks import checks


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, and its options.

    Args:
        kind: `gpt2` (works offline), `word`, `char`, or another of tiktoken's encodings by name, such as
            `cl100k_base` (tiktoken downloads those once). Default: the tokenizer that comes with the corpus, if
            that is a token store, else `gpt2`.
        pattern: for `word`: split off `:` and `;` too, or leave them on the word before.
        specials: for `word` and `char`: special tokens to append to the vocabulary. With `<|unk|>` or `[UNK]`
            among them, unknown pieces become that token; without, they are an error (the strict tokenizer).
            Default: `<|endoftext|>` and `<|unk|>` for words, `<|endoftext|>` for characters.
        checkpoint: take the tokenizer of this checkpoint, or of other weights that have one; the options above are
            then not used.
    """

    kind: str | None = None
    pattern: Literal["with_colon", "without_colon"] = "with_colon"
    specials: tuple[str, ...] | None = None
    checkpoint: str | None = None

    def __post_init__(self) -> None:
        with checks(self) as check:
            if self.specials is not None:
                object.__setattr__(self, "specials", tuple(self.specials))
                check(
                    len(set(self.specials or ())) == len(self.specials or ()),
                    f"specials holds the same token twice: {self.specials}",
                )
                check(all(self.specials or ()), "specials holds an empty token")
                check(
                    self.kind in ("word", "char"),
                    f"specials are for the word and char tokenizers; {self.kind or 'gpt2'!r} has its own",
                )
