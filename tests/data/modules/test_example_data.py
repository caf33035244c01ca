import hashlib
import logging
import math
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from llm.config import TokenizerConfig
from llm.data import ClassifyDataModule, ExampleDataModule, MaskedDataModule
from llm.data.batch import IGNORED
from llm.data.tokens.examples import Example
from llm.errors import CheckpointError, ConfigError, DataError
from llm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz ")
WORDS = ("a cat sat on the mat and the dog lay by the old door of a house in the woods " * 5).split()


class Spelling(ExampleDataModule):
    """Words, to be copied from their second letter on."""

    def __init__(self, words=WORDS, test_words=None, **options):
        super().__init__(LETTERS, **options)
        self.words = {"train": words, "test": test_words}
        self.read = []

    def source_of(self, split):
        words = self.words.get(split)
        return None if words is None else hashlib.sha256(" ".join(words).encode()).hexdigest()

    def read_examples(self, split):
        self.read.append(split)
        for number, word in enumerate(self.words[split]):
            ids = LETTERS.encode(word + "abcdef"[: number % 7])
            yield Example.next_tokens([*ids, 26], [False, *[True] * len(ids)])


@pytest.fixture
def make(tmp_path):
    return lambda **options: Spelling(**{"cache_dir": str(tmp_path / "cache"), **options})


def texts(loader):
    """The words of a loader, batch by batch."""
    return [
        [LETTERS.decode(ids[:length]) for ids, length in zip(inputs, lengths, strict=True)]
        for inputs, _, lengths, *_ in loader
    ]


def running(what, **options):
    defaults = {"state": SimpleNamespace(fn=what), "global_rank": 0, "world_size": 1}
    return SimpleNamespace(**{**defaults, **options})


def flat(batches):
    return [text for batch in batches for text in batch]


def test_examples_are_divided_into_train_and_validation(make):
    data = make(validation_fraction=0.2, drop_last=False)
    train, validation = flat(texts(data.train_dataloader())), flat(texts(data.val_dataloader()))
    assert len(validation) == math.ceil(0.2 * len(WORDS))
    everything = flat(texts(make(validation_fraction=0.0, drop_last=False).train_dataloader()))
    assert sorted(train + validation) == sorted(everything)
    assert len(everything) == len(WORDS)
    assert flat(texts(data.test_dataloader())) == validation
    assert sorted(flat(texts(make(validation_fraction=0.2, seed=5).val_dataloader()))) == sorted(validation)


def test_they_are_read_once(make):
    first, second = make(), make()
    for data in (first, second):
        data.prepare_data()
        data.setup("fit")
        assert texts(data.train_dataloader())
    assert (first.read, second.read) == (["train"], [])


def test_only_what_a_run_needs_is_read(make):
    data = make(test_words=["zoo", "zebra"])
    data.trainer = running("test")
    data.prepare_data()
    data.setup("test")
    assert data.read == ["test"]
    assert texts(data.test_dataloader()) == [["zoo", "zebraa"]]


def test_padding_is_known_by_lengths(make):
    for batch in make().train_dataloader():
        for ids, targets, length in zip(*batch[:3], strict=True):
            assert targets[: length - 1].tolist() == ids[1:length].tolist()
            assert (targets[length:] == IGNORED).all()


def test_processes_have_batches_of_their_own(make):
    seen = []
    for rank in range(2):
        data = make(batch_size=3)
        data.trainer = running(
            "fit", global_rank=rank, world_size=2, num_training_batches=99, fit_loop=SimpleNamespace(total_batch_idx=-1)
        )
        order = data.train_dataloader().order
        seen.append([index for batch in order for index in batch])
    assert len(seen[0]) == len(seen[1]) > 20
    assert not set(seen[0]) & set(seen[1])


def test_how_much_is_padding_is_said(make, caplog):
    with caplog.at_level(logging.INFO, logger="llm"):
        make().setup("fit")
    assert "% of a batch is padding" in caplog.text


def test_batch_tokens_is_the_mean(make):
    data = make(batch_size=10)
    assert data.batch_tokens == round(10 * data.train_examples.lengths.mean())


def test_bad_data_is_named(make):
    with pytest.raises(ConfigError, match=r"context_length must be at least 1.*validation_fraction"):
        make(context_length=0, validation_fraction=2.0)
    with pytest.raises(DataError, match=r"example 1 for train has 5 tokens, more than context_length 3"):
        make(words=["a", "cats", "a"], context_length=3, validation_fraction=0.0).setup("fit")
    with pytest.raises(DataError, match=r"no full batch to train on: 9 examples for a batch_size of 20"):
        make(words=WORDS[:10], batch_size=20).train_dataloader()
    empty = make(words=WORDS[:10], validation_fraction=0.0)
    empty.setup("fit")
    assert empty.val_dataloader() == []
    empty.trainer = running("test")
    with pytest.raises(DataError, match="no examples to test on"):
        empty.setup("test")


@pytest.mark.parametrize("change", [{"words": WORDS[1:]}, {"batch_size": 2}, {"validation_fraction": 0.3}], ids=str)
def test_changed_data_is_refused_unless_it_is_allowed(make, change):
    state = make().state_dict()
    assert all(type(value) in (str, int, bool) for value in state.values())
    same = make()
    same.trainer = running("fit")
    same.load_state_dict(state)
    changed = make(**change)
    changed.trainer = running("fit")
    with pytest.raises(CheckpointError, match=r"in the checkpoint, .* now"):
        changed.load_state_dict(state)
    changed.allow_changed_data = True
    changed.load_state_dict(state)


# A run that is cut short and resumed sees what one that was not would have seen.


class Recorder(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((batch.inputs.tolist(), batch.targets.tolist()))
        return self.weight * 1.0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, data, ckpt_path=None):
    module = Recorder()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        default_root_dir=folder,
        callbacks=[ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
    return module.seen


@pytest.mark.parametrize("kind", ["examples", "masked", "oversampled"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_resumed_run_sees_the_same_batches(make, corpus, tmp_path, kind, workers):
    def data(**options):
        if kind == "examples":
            return make(batch_size=8, **options)
        cache = str(tmp_path / "cache")
        if kind == "oversampled":
            texts = tmp_path / "texts.csv"
            texts.write_text("text,label\n" + "".join(f"{word} {n},{n % 5 < 2}\n" for n, word in enumerate(WORDS)))
            words = TokenizerConfig("word")
            return ClassifyDataModule(str(texts), tokenizer=words, balance="oversample", cache_dir=cache, **options)
        return MaskedDataModule(
            corpus=str(corpus), tokenizer=TokenizerConfig("char"), context_length=64, cache_dir=cache, **options
        )

    whole = fit(tmp_path / "run", data())
    per_epoch = len(whole) // 2
    assert per_epoch > 4
    assert whole[0] not in whole[per_epoch:]
    for step in (1, per_epoch - 1, per_epoch, per_epoch + 2):
        checkpoint = tmp_path / "run" / f"step={step}.ckpt"
        assert fit(tmp_path / "resumed", data(num_workers=workers), checkpoint) == whole[step:]
