"""Prompt lookup decoding: guess the next tokens from earlier text, so that one step can verify several of them.

Decoding a token reads every weight once, and reading four tokens in one step takes hardly longer than one. Texts
repeat themselves: a name, a phrase, a line. Where the last tokens occurred earlier, the tokens that followed them
there are a good guess (Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding). The model reads the guess
together with the last token; its logits are used as far as the guess is accepted, that is, as far as sampling chose
the same tokens. So the text is the same as without.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

SIZES = (3, 2)
"""Lengths of the n-gram that must have occurred earlier; the longest match is taken."""

_WORTH_IT = 0.5
"""Accepted tokens in a guess from which on it pays: reading three more costs a tenth to a half of a step."""

_MEMORY = 0.1
"""The weight of the latest guess in the moving average of accepted tokens."""


class PromptLookup:
    """The guesses for one text that only grows, and the logits that came with them.

    Every guess is compared with what the text became, used or not; while most are rejected, none is made.

    Args:
        n_guesses: tokens in a guess.
    """

    def __init__(self, n_guesses: int) -> None:
        self.n_guesses = n_guesses
        self.accepted = float(n_guesses)
        """Moving average of the accepted tokens in a guess, optimistic at first."""
        self._after: dict[tuple[int, ...], int] = {}  # of tokens in a row: where the token after them stands
        self._n_read = 0
        self._start, self._guess = 0, []  # where the latest guess would begin in the text, and what it is
        self._logits: Tensor | None = None  # (1 + guessed, V) after the text up to there, and after each guessed token
        self._logits_start, self._logits_guess = 0, []

    _guess: list[int]
    _logits_guess: list[int]

    def guess(self, text: Sequence[int]) -> list[int]:
        """How the text may go on: `n_guesses` tokens, or none."""
        self._compare(text)
        self._read(text)
        if not self._guess:
            for size in SIZES:
                place = self._after.get(tuple(text[-size:])) if len(text) >= size else None
                if place is not None:
                    longer = list(text)
                    for offset in range(self.n_guesses):  # a text that repeats itself goes on repeating
                        longer.append(longer[place + offset])
                    self._start, self._guess = len(text), longer[len(text) :]
                    break
        fresh = self._start == len(text)
        return self._guess if fresh and self.accepted >= _WORTH_IT else []

    def keep(self, text: Sequence[int], guess: list[int], logits: Tensor) -> None:
        """Keep the logits (1 + guessed, V) after the text and after each token of its guess."""
        self._logits, self._logits_start, self._logits_guess = logits, len(text), guess

    def logits(self, text: Sequence[int]) -> Tensor | None:
        """(V) the logits after the text, if it went as guessed."""
        new = len(text) - self._logits_start
        if self._logits is None or not 0 < new < len(self._logits):
            return None
        return self._logits[new] if list(text[self._logits_start :]) == self._logits_guess[:new] else None

    def _compare(self, text: Sequence[int]) -> None:
        came = text[self._start : self._start + len(self._guess)]
        n_accepted = next((i for i, token in enumerate(came) if token != self._guess[i]), len(came))
        if self._guess and (n_accepted < len(came) or len(came) == len(self._guess)):
            self.accepted += _MEMORY * (n_accepted - self.accepted)
            self._guess = []

    def _read(self, text: Sequence[int]) -> None:
        for place in range(self._n_read, len(text)):
            for size in SIZES:
                if place >= size:
                    self._after[tuple(text[place - size : place])] = place
        self._n_read = len(text)
