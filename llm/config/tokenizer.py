"""Which tokenizer, and its options."""

from __future__ import annotations

from dataclasses import dataclass

from llm.config.checks import checks

_PATTERNS = {"word": ("with_colon", "without_colon", "lowercase"), "char": (), "bpe": ("gpt2", "gpt4")}
"""The kinds that learn a vocabulary, and the ways in which they may split a text."""


@dataclass(frozen=True)
class TokenizerConfig:
    """Which tokenizer, and its options.

    Args:
        kind: `gpt2` (works offline), `bpe` (byte pairs learned from the corpus), `word`, `char`, or another of
            tiktoken's encodings by name, such as `cl100k_base` (tiktoken downloads those once). Default: the
            tokenizer that comes with the corpus, if that is a token store, else `gpt2`.
        vocab_size: for `bpe`: V, how many tokens it learns, with the 256 bytes and the special tokens. Default:
            2,000, or fewer where no more pairs occur `min_frequency` times.
        min_frequency: for `bpe`: how often a pair of tokens must occur to become one.
        pattern: how a text is split. For `word`, `with_colon` (default) splits off `:` and `;` too, `without_colon`
            leaves them on the word before, `lowercase` has words in lower case and nothing else. For `bpe`, the
            pattern of `gpt2` (default) or `gpt4`.
        specials: for `word`, `char` and `bpe`: special tokens to append to the vocabulary. With `<|unk|>` or `[UNK]`
            among them, unknown words and characters become that token; without, they are an error (the strict
            tokenizer). Default: `<|endoftext|>` and `<|unk|>` for words, else `<|endoftext|>`.
        checkpoint: take the tokenizer of this checkpoint, or of other weights that have one, or the one that
            `python -m llm tokenizer train` wrote, or of a `tokenizer.json`, `vocab.txt` or nanoGPT's `meta.pkl`; the
            options above are then not used.
    """

    kind: str | None = None
    vocab_size: int | None = None
    min_frequency: int = 2
    pattern: str | None = None
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
                    self.kind in _PATTERNS,
                    f"specials are for {', '.join(_PATTERNS)}; {self.kind or 'gpt2'!r} has its own",
                )
            if self.kind != "bpe":
                check(self.vocab_size is None, f"vocab_size is for bpe; {self.kind or 'gpt2'!r} has its own")
            check(self.min_frequency > 0, f"min_frequency must be at least 1, got {self.min_frequency}")
            if self.pattern is not None:
                patterns = _PATTERNS.get(self.kind or "gpt2", ())
                expected = f"be one of {', '.join(patterns)}" if patterns else "be left out"
                check(
                    self.pattern in patterns,
                    f"the pattern of {self.kind or 'gpt2'!r} must {expected}; got {self.pattern!r}",
                )
