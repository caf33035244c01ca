"""From a corpus to batches: the one object that a Trainer asks for data."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch.utils.data import DataLoader

from llm.config import TokenizerConfig
from llm.data.modules.resuming import refuse_other_data
from llm.data.modules.splits import Splits
from llm.data.reading.prompts import Prompt, read_prompts
from llm.data.tokens.mapped import TokenArray
from llm.data.tokens.opening import choose_tokenizer, hash_of_corpus
from llm.data.windows import SlidingWindows, WindowLoader, WindowOrder, window_starts
from llm.errors import CheckpointError, ConfigError, DataError
from llm.pretrained import read_tokenizer
from llm.tokenizers import Tokenizer

_GPT2 = TokenizerConfig()
_ORDER_SETTINGS = ("context_length", "stride", "batch_size", "shuffle", "drop_last", "seed")


class TextDataModule(Splits, L.LightningDataModule):
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
        shuffle: give the training windows a new order every epoch.
        drop_last: leave out the training windows that don't fill a last batch.
        validation_fraction: share of the tokens, from the end of the corpus, that is kept for validation.
        validation_corpus: validate on this instead, and train on the whole corpus.
        test_corpus: what `test` uses. Default: the validation tokens.
        prompts: what `predict` continues or scores: a UTF-8 file with one prompt a line.
        num_workers: processes that gather batches; 0 is the training process itself, mostly the fastest.
        seed: of the order of the training windows.
        cache_dir: folder for token ids, so that a text is tokenized only once.
        allow_changed_data: resume from a checkpoint although the corpus or the order of its windows is no longer
            the same, so that the run will not repeat what it would have been.

    Raises:
        ConfigError: a setting that no run can have.
        CheckpointError: `tokenizer.checkpoint` is no checkpoint with a tokenizer.
        DataError: the vocabulary has to be learned from a corpus that can't be read, or the token ids can't be.
    """

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
        prompts: str | None = None,
        num_workers: int = 0,
        seed: int = 123,
        cache_dir: str = "data/cache",
        allow_changed_data: bool = False,
    ) -> None:
        super().__init__()
        self.corpus = corpus
        self.context_length = context_length
        self.stride = context_length if stride is None else stride
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.drop_last = drop_last
        self.validation_fraction = validation_fraction
        self.validation_corpus = validation_corpus
        self.test_corpus = test_corpus
        self.prompts = prompts
        self.num_workers = num_workers
        self.seed = seed
        self.cache_dir = cache_dir
        self.allow_changed_data = allow_changed_data
        leasts = {"context_length": 1, "stride": 1, "batch_size": 1, "num_workers": 0, "seed": 0}
        problems = [
            f"{name} must be at least {least}, got {getattr(self, name)}"
            for name, least in leasts.items()
            if getattr(self, name) < least
        ]
        if not 0 <= validation_fraction < 1:
            problems.append(f"validation_fraction must be in [0, 1), got {validation_fraction}")
        if problems:
            raise ConfigError(*problems)
        self.tokenizer = self._make_tokenizer(tokenizer)
        self.vocab_size = int(self.tokenizer.vocab_size)

    def _make_tokenizer(self, tokenizer: TokenizerConfig | Tokenizer) -> Tokenizer:
        if isinstance(tokenizer, Tokenizer):
            return tokenizer
        if tokenizer.checkpoint is not None:
            return read_tokenizer(tokenizer.checkpoint)
        return choose_tokenizer(self.corpus, tokenizer, self.cache_dir)

    # What Lightning calls.

    def prepare_data(self) -> None:
        """Tokenize what is not in the cache yet; on one process of each machine."""
        for name in self._stores_of_this_run():
            getattr(self, name)

    def setup(self, stage: str) -> None:
        """Hold the texts to the least number of tokens.

        Raises:
            DataError: a text is too short for one window; says how many tokens are needed and found.
        """
        del stage
        names = self._stores_of_this_run()
        found: dict[str, int] = {}
        if "corpus_store" in names:
            found["train"] = len(self.train_tokens)
        if "validation_store" in names and (self.validation_corpus is not None or self.validation_fraction > 0):
            found["validation"] = len(self.validation_tokens)
        if "test_store" in names:
            found["test"] = len(self.test_tokens)
        needed = self.context_length + 1
        if any(n_tokens < needed for n_tokens in found.values()):
            counts = ", ".join(f"{split} has {n_tokens:,}" for split, n_tokens in found.items())
            shared = self.validation_corpus is None and "validation" in found
            share = f" (validation_fraction is {self.validation_fraction})" if shared else ""
            raise DataError(
                f"the text is too short: one window of context_length {self.context_length} needs {needed:,} tokens, "
                f"{counts}{share}; use a longer text or a shorter context_length"
            )

    def _stores_of_this_run(self) -> list[str]:
        running = self.trainer.state.fn if self.trainer is not None else "fit"
        return {
            "fit": ["corpus_store", "validation_store"],
            "validate": ["validation_store"],
            "test": ["test_store"],
        }.get(str(getattr(running, "value", running)), [])

    def train_dataloader(self) -> WindowLoader:
        """Shuffled windows, from the position that the run has reached.

        Raises:
            DataError: there is not one full batch, and `drop_last` leaves out the others.
        """
        tokens = self.corpus_store.tokens(0, self.split_at, read_ahead=not self.shuffle)
        windows = SlidingWindows(tokens, self.context_length, self.stride, self.vocab_size)
        order = self.train_order(*self._rank_and_world_size())
        return WindowLoader(windows, order, self._position, self.num_workers, self._pins_memory)

    def train_order(self, rank: int = 0, world_size: int = 1) -> WindowOrder:
        """The training batches of one process.

        Raises:
            DataError: there is not one full batch, and `drop_last` leaves out the others.
        """
        n_windows = len(window_starts(len(self.train_tokens), self.context_length, self.stride))
        order = WindowOrder(n_windows, self.batch_size, self.shuffle, self.drop_last, self.seed, rank, world_size)
        if len(order) == 0:
            raise DataError(
                f"no full batch to train on: {n_windows} windows for a batch_size of {self.batch_size} on "
                f"{world_size} device(s); use a smaller batch_size or stride, or drop_last false"
            )
        return order

    def val_dataloader(self) -> WindowLoader | list[Any]:
        """Windows side by side over the validation tokens, none left out."""
        return self._evaluation_loader(self.validation_tokens) if len(self.validation_tokens) else []

    def test_dataloader(self) -> WindowLoader:
        """Windows side by side over the test tokens, none left out."""
        return self._evaluation_loader(self.test_tokens)

    def predict_dataloader(self) -> DataLoader[Prompt]:
        """The prompts, `batch_size` at a time, each batch a list.

        Raises:
            ConfigError: no file of prompts is given.
        """
        if self.prompts is None:
            raise ConfigError("predict continues prompts: give a file with one a line, --data.prompts FILE")
        prompts = read_prompts(self.prompts, self.tokenizer)
        return DataLoader(prompts, batch_size=self.batch_size, collate_fn=list)

    def _evaluation_loader(self, tokens: TokenArray) -> WindowLoader:
        windows = SlidingWindows(tokens, self.context_length, self.context_length, self.vocab_size)
        rank, world_size = self._rank_and_world_size()
        order = WindowOrder(len(windows), self.batch_size, False, False, self.seed, rank, world_size)
        return WindowLoader(windows, order, num_workers=self.num_workers, pin_memory=self._pins_memory)

    @property
    def _pins_memory(self) -> bool:
        strategy = getattr(self.trainer, "strategy", None)
        return strategy is not None and strategy.root_device.type == "cuda"

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _position(self) -> tuple[int, int] | None:
        """(epoch, batch) that comes next: from the number of batches taken since the run began."""
        if self.trainer is None:
            return None
        return divmod(self.trainer.fit_loop.total_batch_idx + 1, int(self.trainer.num_training_batches))

    # What a checkpoint needs to know of the data.

    @classmethod
    def load_from_checkpoint(cls, *_: Any, **__: Any) -> Any:
        """Not possible, and Lightning would unpickle what it finds behind a URL, code included."""
        raise CheckpointError("a checkpoint holds no data: make a TextDataModule with the settings of the run")

    def state_dict(self) -> dict[str, Any]:
        """What the order of the training batches depends on, besides the position, which is the trainer's."""
        settings = {name: getattr(self, name) for name in _ORDER_SETTINGS}
        settings["world_size"] = self._rank_and_world_size()[1]
        return {
            **settings,
            "corpus": self.corpus_store.source_hash,
            "corpus_bytes": self.corpus_store.n_bytes,
            "tokenizer": self.tokenizer.fingerprint,
            "train_tokens": self.split_at,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make sure that a resumed run goes on with the data that it began with.

        Raises:
            CheckpointError: something differs, and `allow_changed_data` is off.
        """
        if self.trainer is None or self.trainer.state.fn != "fit" or self.allow_changed_data:
            return
        refuse_other_data(state_dict, self.state_dict())

    def refuse_other_corpus(self, state_dict: dict[str, Any]) -> None:
        """As `load_state_dict`, for the corpus alone: before it is tokenized.

        Raises:
            CheckpointError: it is another one, and `allow_changed_data` is off.
            DataError: it can't be read.
        """
        if not self.allow_changed_data and "corpus" in state_dict:
            refuse_other_data(state_dict, {"corpus": hash_of_corpus(self.corpus, self.cache_dir)})
