"""From a corpus to batches: the LightningDataModule of texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from torch.utils.data import DataLoader

from llm.config import TokenizerConfig
from llm.data.held_out import problems_of_fraction
from llm.data.loader import BatchLoader, RowSource
from llm.data.modules.base import SAMPLE_TOKENS, ResumableDataModule, first_words
from llm.data.modules.resuming import refuse_other_data
from llm.data.modules.splits import TextSplits
from llm.data.modules.tokenizers import ready_tokenizer
from llm.data.order import BatchOrder, SpreadOrder
from llm.data.reading.corpus import resolve_corpus
from llm.data.reading.prompts import Prompt, read_prompts
from llm.data.tokens.mapped import TokenArray
from llm.data.tokens.opening import choose_tokenizer, find_token_ids, hash_of_corpus
from llm.data.tokens.store import TokenStore
from llm.data.tokens.tokenize import SpecialTokens
from llm.data.windows import SlidingWindows, window_starts
from llm.errors import ConfigError, DataError
from llm.tokenizers import Tokenizer

_GPT2 = TokenizerConfig()


class TextDataModule(ResumableDataModule):
    """A text corpus, its tokenizer, and the windows cut from it.

    Args:
        corpus: what to train on: `story`, `the-verdict`, a text file, a folder (every *.txt in it and below), a
            glob pattern, or a list of these, where each file is one document, and in JSON lines (`.jsonl`) and
            `.parquet` the `text` of each record; or token ids: a folder that `python -m llm tokenize` wrote, or
            nanoGPT's `.bin`.
        tokenizer: which tokenizer, and its options; in Python also a ready one. A vocabulary that has to be
            learned is that of `corpus`. A folder of token ids has a tokenizer with it.
        context_length: T, tokens in a window: the most that the model sees at once.
        stride: tokens from the beginning of one training window to the next. null means the context length, so
            that windows don't overlap.
        batch_size: windows in a batch, on each device.
        evaluation_batch_size: windows in a batch of validation and test, whose losses do not depend on it. null means
            as many as have 8,192 tokens together, but no fewer than `batch_size`: without gradients, the activations
            of one layer are held at a time.
        validation_windows: validate on so many windows, spread evenly over the validation tokens. null means all.
        shuffle: give the training windows a new order every epoch.
        drop_last: skip the training windows that don't fill a last batch.
        validation_fraction: fraction of the tokens, from the end of the corpus, that is kept for validation.
        validation_corpus: validate on this instead, and train on the whole corpus.
        test_corpus: what `test` uses. Default: the validation tokens.
        special_tokens: what a special token in a text is, such as `<|endoftext|>`: `as_tokens`, itself, so that it ends
            a document, as in corpora that are published as one file; `as_text`, the characters it is written with, so
            that nobody's text can end a document.
        prompts: what `predict` continues or scores: a UTF-8 file with one prompt a line.
        num_workers: processes that gather batches; 0 is the training process itself, usually the fastest.
        separate_documents: let no token see another document: attention ends at the end-of-text token, and positions
            begin anew there. With learned positions, later positions are then trained by long documents only.
        seed: of the order of the training windows.
        cache_dir: folder for token ids, so that a text is tokenized only once.
        allow_changed_data: resume from a checkpoint although the corpus or the order of its windows is no longer
            the same, so that the run no longer repeats an uninterrupted one.

    Raises:
        ConfigError: a setting is invalid.
        CheckpointError: `tokenizer.checkpoint` is not a checkpoint with a tokenizer.
        DataError: the vocabulary has to be learned from a corpus that can't be read, or the token ids can't be.
    """

    order_settings: ClassVar[tuple[str, ...]] = (
        "context_length",
        "stride",
        *ResumableDataModule.order_settings,
    )
    least: ClassVar[dict[str, int]] = {
        "context_length": 1,
        "stride": 1,
        **ResumableDataModule.least,
    }
    rows_name: ClassVar[str] = "windows"
    advice_on_too_few: ClassVar[str] = "use a smaller batch_size or stride, or --data.drop_last false"

    def __init__(
        self,
        corpus: str | list[str] = "story",
        tokenizer: TokenizerConfig = _GPT2,
        context_length: int = 256,
        stride: int | None = None,
        batch_size: int = 4,
        shuffle: bool = True,
        drop_last: bool = True,
        validation_fraction: float = 0.1,
        validation_corpus: str | list[str] | None = None,
        test_corpus: str | list[str] | None = None,
        special_tokens: SpecialTokens = "as_tokens",
        prompts: str | None = None,
        num_workers: int = 0,
        seed: int = 123,
        cache_dir: str = "data/cache",
        allow_changed_data: bool = False,
        separate_documents: bool = False,
        evaluation_batch_size: int | None = None,
        validation_windows: int | None = None,
    ) -> None:
        super().__init__(
            *(context_length, batch_size, shuffle, drop_last, num_workers, seed, allow_changed_data),
            evaluation_batch_size,
        )
        self.validation_windows = validation_windows
        self.corpus = corpus
        self.separate_documents = separate_documents
        self.stride = context_length if stride is None else stride
        self.prompts = prompts
        self.cache_dir = cache_dir
        self.special_tokens = special_tokens
        problems = problems_of_fraction(validation_fraction)
        if validation_windows is not None and validation_windows < 1:
            problems.append(f"validation_windows must be at least 1, or null for all, got {validation_windows}")
        self._check_settings(*problems)
        self.tokenizer = self._make_tokenizer(tokenizer)
        self.vocab_size = int(self.tokenizer.vocab_size)
        if separate_documents and self.tokenizer.end_of_text_id is None:
            raise ConfigError("separate_documents needs an end-of-text token in the vocabulary: add <|endoftext|>")
        self.splits = TextSplits(
            corpus, self.tokenizer, cache_dir, validation_fraction, validation_corpus, test_corpus, special_tokens
        )

    def _make_tokenizer(self, tokenizer: TokenizerConfig | Tokenizer) -> Tokenizer:
        if isinstance(tokenizer := ready_tokenizer(tokenizer), Tokenizer):
            return tokenizer
        return choose_tokenizer(self.corpus, tokenizer, self.cache_dir)

    # The token ids

    @property
    def corpus_store(self) -> TokenStore:
        """The training corpus as token ids."""
        return self.splits.corpus_store

    @property
    def train_tokens(self) -> TokenArray:
        """(N,) ids to train on."""
        return self.splits.train_tokens()

    @property
    def validation_tokens(self) -> TokenArray:
        """(N,) ids to validate on."""
        return self.splits.validation_tokens

    @property
    def test_tokens(self) -> TokenArray:
        """(N,) ids to test on."""
        return self.splits.test_tokens

    def bytes_per_token(self, split: str) -> float | None:
        """Mean size in UTF-8 bytes of a token of `validation` or `test`; None where bits per byte mean nothing."""
        return self.splits.bytes_per_token("train" if split == "validation" and self.overfits else split)

    # What Lightning calls.

    def prepare_data(self) -> None:
        """Tokenize what is not in the cache yet; on one process of each machine."""
        self.splits.prepare(self._running())

    def setup(self, stage: str) -> None:
        """Check that every split has enough tokens.

        Raises:
            DataError: a text is too short for one window; says how many tokens are needed and found.
        """
        del stage
        found, needed = self.splits.sizes(self._running()), self.window_length + 1
        if any(n_tokens < needed for n_tokens in found.values()):
            counts = ", ".join(f"{split} has {n_tokens:,}" for split, n_tokens in found.items())
            divided = self.splits.validation_corpus is None and "validation" in found
            fraction = f" (validation_fraction is {self.splits.validation_fraction})" if divided else ""
            raise DataError(
                f"the text is too short: one window of context_length {self.context_length} needs {needed:,} tokens, "
                f"{counts}{fraction}; use a longer text or a shorter context_length"
            )

    @property
    def window_length(self) -> int:
        """Tokens of the text in a window: T, unless a subclass puts others around them."""
        return self.context_length

    @property
    def batch_tokens(self) -> int:
        """Tokens in a batch of one device, B * T."""
        return self.batch_size * self.context_length

    @property
    def files(self) -> list[Path]:
        """The files of the training corpus."""
        path = find_token_ids(self.corpus)
        if path is None:
            return resolve_corpus(self.corpus)
        return [path] if path.is_file() else sorted(path.glob("*.tokens"))

    def split_tokens(self, split: str) -> int:
        """How many tokens `train` or `validation` has."""
        return len(self.train_tokens if split == "train" else self.validation_tokens)

    @property
    def longest_row(self) -> int:
        """T: all windows have as many."""
        return self.context_length

    def sample_ids(self, most: int) -> list[int]:
        """The beginning of the validation tokens, or of those to train on."""
        tokens = self.validation_tokens
        return list((tokens if len(tokens) else self.train_tokens)[:most].tolist())

    def sample_text(self) -> str:
        """The first two words of the training text; where there are no spaces, its first characters."""
        text = self.tokenizer.decode(self.train_tokens[:SAMPLE_TOKENS].tolist())
        return first_words(text, len(self.train_tokens) > SAMPLE_TOKENS, most=2)

    def make_rows(self, tokens: TokenArray, stride: int, *, training: bool) -> RowSource:
        """The windows over a split, as batches are gathered from them; a subclass may change what they are given.

        Args:
            tokens: (N) of the split.
            stride: tokens from the beginning of a window to that of the next.
            training: whether they are to train on, rather than to evaluate on.
        """
        del training
        end_id = self.tokenizer.end_of_text_id if self.separate_documents else None
        return SlidingWindows(tokens, self.window_length, stride, self.vocab_size, end_id)

    def train_source(self) -> RowSource:
        """The windows over the training tokens."""
        return self.make_rows(self.splits.train_tokens(read_ahead=not self.shuffle), self.stride, training=True)

    def make_train_order(self, rank: int, world_size: int) -> BatchOrder:
        """The windows, shuffled, without a list of them."""
        n_windows = len(window_starts(len(self.train_tokens), self.window_length, self.stride))
        return BatchOrder(n_windows, self.batch_size, self.shuffle, self.drop_last, self.seed, rank, world_size)

    def validation_loader(self) -> BatchLoader | list[Any]:
        """Windows side by side over the validation tokens: all of them, or `validation_windows`."""
        if not len(self.validation_tokens):
            return []
        return self._side_by_side(self.validation_tokens, self.validation_windows)

    def test_dataloader(self) -> BatchLoader:
        """Windows side by side over the test tokens, all of them."""
        return self._side_by_side(self.test_tokens)

    def predict_dataloader(self) -> DataLoader[Prompt]:
        """The prompts, `batch_size` at a time, each batch a list.

        Raises:
            ConfigError: no file of prompts is given.
        """
        if self.prompts is None:
            raise ConfigError("predict continues prompts: give a file with one a line, --data.prompts FILE")
        prompts = read_prompts(self.prompts, self.tokenizer)
        return DataLoader(prompts, batch_size=self.batch_size, collate_fn=list)

    def _side_by_side(self, tokens: TokenArray, most: int | None = None) -> BatchLoader:
        windows = self.make_rows(tokens, self.window_length, training=False)
        rank, world_size = self._rank_and_world_size()
        order = SpreadOrder(len(windows), most, self.evaluation_batch_size, rank, world_size)
        return self._evaluation_loader(windows, order)

    # What a checkpoint needs to know of the data.

    def data_identity(self) -> dict[str, Any]:
        """Which text, which tokenizer, and how much of it is for training."""
        return {
            "corpus": self.corpus_store.source_hash,
            "corpus_bytes": self.corpus_store.n_bytes,
            "tokenizer": self.tokenizer.fingerprint,
            "train_tokens": self.splits.split_at,
            **({"separate_documents": True} if self.separate_documents else {}),
        }

    def refuse_other_corpus(self, state_dict: dict[str, Any]) -> None:
        """As `load_state_dict`, for the corpus alone: before it is tokenized.

        Raises:
            CheckpointError: it is another one, and `allow_changed_data` is off.
            DataError: it can't be read.
        """
        if not self.allow_changed_data and "corpus" in state_dict:
            refuse_other_data(state_dict, {"corpus": hash_of_corpus(self.corpus, self.cache_dir, self.special_tokens)})


def sampled_validation(datamodule: Any) -> str | None:
    """What part of the validation windows a run is validated on, in words; None if on all, or on no windows."""
    if not isinstance(datamodule, TextDataModule) or datamodule.overfits or datamodule.validation_windows is None:
        return None
    order = getattr(datamodule.validation_loader(), "order", None)
    if not isinstance(order, SpreadOrder) or order.n_rows == order.of_rows:
        return None
    return f"{order.n_rows:,} of {order.of_rows:,} windows"
