"""A validation: the same figures whatever its batch, on all windows or on some of them."""

from __future__ import annotations

import itertools
import json

import lightning as L
import pytest
import torch
from tiny_runs import QUIET

from llm.config import (
    ClassifierConfig,
    EncoderConfig,
    GPTConfig,
    TokenizerConfig,
    TransformerConfig,
    WordVectorsConfig,
)
from llm.data import (
    ClassifyDataModule,
    InstructDataModule,
    MaskedDataModule,
    TextDataModule,
    TranslationDataModule,
    WordVectorsDataModule,
)
from llm.data.modules.text import sampled_validation
from llm.errors import ConfigError
from llm.tasks import (
    InstructModel,
    LanguageModel,
    MaskedLanguageModel,
    TextClassifier,
    TranslationModel,
    WordVectorsModule,
)

SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 8, "dropout": 0.0}


@pytest.fixture
def data_of(tmp_path):
    """A data module of the story, half of which is for validation: 325 windows of 32 characters, or 121 of 16 words."""

    def make(kind=TextDataModule, **options):
        words = kind is WordVectorsDataModule
        tokenizer = TokenizerConfig("word", pattern="lowercase") if words else TokenizerConfig("char")
        settings = {"tokenizer": tokenizer, "context_length": 16 if words else 32, "validation_fraction": 0.5}
        return kind(**{**settings, "batch_size": 2, "cache_dir": str(tmp_path / "cache"), **options})

    return make


def module_of(kind, data):
    torch.manual_seed(0)
    if kind is WordVectorsDataModule:
        return WordVectorsModule(WordVectorsConfig(data.vocab_size, 8))
    if kind is MaskedDataModule:
        return MaskedLanguageModel(EncoderConfig(data.vocab_size, 32, **SHAPE))
    return LanguageModel(GPTConfig(data.vocab_size, 32, **SHAPE))


@pytest.mark.parametrize("kind", [TextDataModule, MaskedDataModule, WordVectorsDataModule])
def test_figures_do_not_depend_on_the_batch(data_of, kind):
    found = []
    for batch_size in (None, 64, 7):
        data = data_of(kind, evaluation_batch_size=batch_size)
        found.append(L.Trainer(**QUIET).validate(module_of(kind, data), data, verbose=False)[0])
    assert found[1:] == [pytest.approx(found[0], rel=1e-6)] * 2


@pytest.mark.parametrize("kind", [ClassifyDataModule, InstructDataModule, TranslationDataModule])
def test_figures_of_samples_do_not_depend_on_the_batch(tmp_path, kind):
    rows = [("a" * (1 + n % 7) + str(n), "xyz"[: 1 + n % 3]) for n in range(30)]
    (tmp_path / "rows.tsv").write_text("".join(f"{first}\t{second}\n" for first, second in rows))
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"{first},{second}\n" for first, second in rows))
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"prompt": first, "completion": second}) for first, second in rows)
    )
    cache = {} if kind is TranslationDataModule else {"cache_dir": str(tmp_path / "cache")}
    file = {ClassifyDataModule: "rows.csv", InstructDataModule: "rows.jsonl", TranslationDataModule: "rows.tsv"}[kind]
    options = {"tokenizer": TokenizerConfig("char", specials=("<|endoftext|>", "<|unk|>")), "context_length": 64}
    options |= {"template": "plain"} if kind is InstructDataModule else {}

    def module_of(data):
        torch.manual_seed(0)
        if kind is TranslationDataModule:
            return TranslationModel(TransformerConfig(data.vocab_size, 64, source_vocab_size=data.vocab_size, **SHAPE))
        if kind is ClassifyDataModule:
            return TextClassifier(ClassifierConfig(data.vocab_size, 64, labels=data.labels, **SHAPE))
        return InstructModel(GPTConfig(data.vocab_size, 64, **SHAPE))

    found, n_batches = [], []
    for batch_size in (None, 4, 1):
        data = kind(
            str(tmp_path / file),
            **options,
            **cache,
            batch_size=2,
            validation_fraction=0.4,
            evaluation_batch_size=batch_size,
        )
        found.append(L.Trainer(**QUIET).validate(module_of(data), data, verbose=False)[0])
        n_batches.append((len(data.val_dataloader()), len(data.test_dataloader())))
    assert found[1:] == [pytest.approx(found[0], rel=1e-5)] * 2
    assert n_batches[0] == (1, 1)
    assert n_batches[0] < n_batches[1] < n_batches[2]
    with pytest.raises(ConfigError, match="evaluation_batch_size must be at least 1, got 0"):
        kind(str(tmp_path / file), **options, **cache, evaluation_batch_size=0)


def test_a_batch_has_8192_tokens_unless_one_of_training_has_more(data_of):
    assert data_of().evaluation_batch_size == 8192 // 32
    assert data_of(batch_size=1000).evaluation_batch_size == 1000
    assert data_of(evaluation_batch_size=3).evaluation_batch_size == 3


def test_some_windows_are_spread_over_the_text(data_of):
    some, all_of_them = data_of(validation_windows=10), data_of()
    for data in (some, all_of_them):
        data.prepare_data()
        data.setup("fit")
    rows = torch.cat([batch.inputs for batch in some.val_dataloader()])
    of = torch.cat([batch.inputs for batch in all_of_them.val_dataloader()])
    assert len(rows) == 10
    starts = [(row == of).all(1).nonzero().item() for row in rows]
    gaps = [later - earlier for earlier, later in itertools.pairwise(starts)]
    assert set(gaps) <= {len(of) // 10, len(of) // 10 + 1}
    assert starts[0] < len(of) / 10
    assert starts[-1] >= len(of) * 0.9
    tested = torch.cat([batch.inputs for batch in some.test_dataloader()])
    assert tested.equal(of), "a test is on all"
    assert sampled_validation(some) == f"10 of {len(of)} windows"
    assert sampled_validation(all_of_them) is None


def test_no_windows_are_refused(data_of):
    with pytest.raises(ConfigError) as refused:
        data_of(validation_windows=0, evaluation_batch_size=0)
    assert [str(problem).split(",")[0] for problem in refused.value.args] == [
        "evaluation_batch_size must be at least 1",
        "validation_windows must be at least 1",
    ]
