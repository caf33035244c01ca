"""Windows of a text read backwards."""

from __future__ import annotations

from collections.abc import Sequence

from llm.data import TextDataModule
from llm.data.batch import TokenBatch
from llm.data.loader import RowSource
from llm.data.tokens.mapped import TokenArray
from llm.data.windows import SlidingWindows


class BackwardWindows(SlidingWindows):
    """Windows whose targets are the tokens before the inputs."""

    def gather(self, indices: Sequence[int], epoch: int = 0) -> TokenBatch:
        """A batch of windows: inputs (B, T), and targets (B, T), the inputs shifted by one to the left."""
        forward = super().gather(indices, epoch)
        return TokenBatch(forward.targets, forward.inputs)


class BackwardDataModule(TextDataModule):
    """A text corpus, its tokenizer, and the windows cut from it, read backwards."""

    def make_rows(self, tokens: TokenArray, stride: int, *, training: bool) -> RowSource:
        """The windows over a split, the same for training and evaluation."""
        del training
        return BackwardWindows(tokens, self.context_length, stride, self.vocab_size)
