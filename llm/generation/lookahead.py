"""Guess the next tokens from what the text said before, so that one step can check several of them.

Decoding a token reads every weight once, and reading four tokens of a text in one step takes hardly longer than one.
Texts repeat themselves: a name, a phrase, a line. Where the last tokens stood once before, the tokens that came after
them are a good guess (prompt lookup decoding: Saxena 2023, https://github.com/apoorvumang/prompt-lookup-decoding). The
model reads the guess with the last token; its scores count as far as the text really goes that way, whoever chooses
the tokens and however. So the text is the same as without.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

SIZES = (3, 2)
"""As many of the last tokens must have stood before; the longer match first."""

_WORTH_IT = 0.5
"""Right tokens in a guess from which on it pays: reading three more costs a tenth to a half of a step."""

_MEMORY = 0.1
"""The weight of the latest guess in the mean of right tokens."""


class Lookahead:
    """The guesses for one text that only grows, and the scores that came with them.

    Every guess is compared with what the text became, used or not; while they are mostly wrong, none is given.

    Args:
        n_guesses: tokens in a guess.
    """

    def __init__(self, n_guesses: int) -> None:
        self.n_guesses = n_guesses
        self.right = float(n_guesses)
        """Mean of right tokens in a guess, of late; hopeful at first."""
        self._after: dict[tuple[int, ...], int] = {}  # of tokens in a row: where the token after them stands
        self._n_read = 0
        self._start, self._guess = 0, []  # where the latest guess would begin in the text, and what it is
        self._scores: Tensor | None = None  # (1 + guessed, V) after the text up to there, and after each guessed token
        self._scores_start, self._scores_guess = 0, []

    _guess: list[int]
    _scores_guess: list[int]

    def guess(self, text: Sequence[int]) -> list[int]:
        """How the text may go on: `n_guesses` tokens, or none."""
        self._compare(text)
        self._read(text)
        if not self._guess:
            for size in SIZES:
                place = self._after.get(tuple(text[-size:])) if len(text) >= size else None
                if place is not None:
                    longer = list(text)
                    for offset in range(self.n_guesses):  # a text that turns in a circle goes on in it
                        longer.append(longer[place + offset])
                    self._start, self._guess = len(text), longer[len(text) :]
                    break
        fresh = self._start == len(text)
        return self._guess if fresh and self.right >= _WORTH_IT else []

    def keep(self, text: Sequence[int], guess: list[int], scores: Tensor) -> None:
        """Keep the scores (1 + guessed, V) after the text and after each token of its guess."""
        self._scores, self._scores_start, self._scores_guess = scores, len(text), guess

    def scores(self, text: Sequence[int]) -> Tensor | None:
        """(V) those after the text, if it went as guessed."""
        new = len(text) - self._scores_start
        if self._scores is None or not 0 < new < len(self._scores):
            return None
        return self._scores[new] if list(text[self._scores_start :]) == self._scores_guess[:new] else None

    def _compare(self, text: Sequence[int]) -> None:
        came = text[self._start : self._start + len(self._guess)]
        n_right = next((i for i, token in enumerate(came) if token != self._guess[i]), len(came))
        if self._guess and (n_right < len(came) or len(came) == len(self._guess)):
            self.right += _MEMORY * (n_right - self.right)
            self._guess = []

    def _read(self, text: Sequence[int]) -> None:
        for place in range(self._n_read, len(text)):
            for size in SIZES:
                if place >= size:
                    self._after[tuple(text[place - size : place])] = place
        self._n_read = len(text)
