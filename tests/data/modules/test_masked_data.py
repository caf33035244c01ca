import pytest
import torch
from jsonargparse import ArgumentParser

from llm.config import TokenizerConfig
from llm.data import MaskedDataModule, TextDataModule
from llm.data.batch import IGNORED
from llm.errors import CheckpointError, ConfigError
from llm.tokenizers import MASK


@pytest.fixture
def make(corpus, tmp_path):
    def build(kind=MaskedDataModule, **options):
        defaults = {
            "corpus": str(corpus),
            "tokenizer": TokenizerConfig("char"),
            "context_length": 16,
            "cache_dir": str(tmp_path / "cache"),
        }
        return kind(**{**defaults, **options})

    return build


def test_the_tokenizer_has_a_mask_token_from_the_beginning(make, tmp_path):
    text, masked = make(TextDataModule), make()
    assert masked.vocab_size == text.vocab_size + 1
    assert masked.tokenizer.special_ids[MASK] == text.vocab_size
    assert make(tokenizer=TokenizerConfig("gpt2")).tokenizer.special_ids[MASK] == 50257
    assert not (tmp_path / "cache").exists()
    given = TokenizerConfig("char", specials=("[MASK]", "[UNK]"))
    assert make(tokenizer=given).tokenizer == make(TextDataModule, tokenizer=given).tokenizer


def test_texts_are_tokenized_once_for_language_models_and_masked_words(make, tmp_path):
    text, masked = make(TextDataModule), make()
    again = make(tokenizer=masked.tokenizer)  # as that of a checkpoint
    assert text.train_tokens.tolist() == masked.train_tokens.tolist() == again.train_tokens.tolist()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert again.state_dict() == masked.state_dict()


def test_batches_are_windows_with_tokens_hidden(make):
    (text, masked) = (make(kind, seed=3) for kind in (TextDataModule, MaskedDataModule))
    specials = torch.tensor(list(masked.tokenizer.special_ids.values()))
    for plain, hidden in zip(text.train_dataloader(), masked.train_dataloader(), strict=True):
        chosen = hidden.targets != IGNORED
        assert (chosen.sum(1) == 2).all()  # 15 % of 16
        assert torch.equal(torch.where(chosen, hidden.targets, hidden.inputs), plain.inputs)
        assert not torch.isin(hidden.targets, specials).any()


def test_epochs_have_masks_of_their_own_and_validation_has_not(make):
    data = make(shuffle=False)
    loader, validation = data.train_dataloader(), data.val_dataloader()
    epochs = []
    for epoch in (0, 1, 0):
        loader.order.set_epoch(epoch)
        epochs.append([batch.targets.tolist() for batch in loader])
    assert epochs[0] == epochs[2] != epochs[1]
    before = [batch.targets.tolist() for batch in validation]
    assert [batch.targets.tolist() for batch in validation] == before
    assert [batch.targets.tolist() for batch in make(seed=123).val_dataloader()] == before


def test_all_seeds_are_evaluated_with_the_same_masks(make, corpus):
    one, other = (make(seed=seed, test_corpus=str(corpus)) for seed in (1, 2))
    for name in ("val_dataloader", "test_dataloader"):
        found = [[batch.targets.tolist() for batch in getattr(data, name)()] for data in (one, other)]
        assert found[0] == found[1]
        assert found[0]
    trained = [next(iter(make(seed=seed, shuffle=False).train_dataloader())) for seed in (1, 2)]
    assert not torch.equal(trained[0].targets, trained[1].targets)


def test_workers_hide_the_same_tokens(make):
    alone, workers = make().train_dataloader(), make(num_workers=2).train_dataloader()
    for epoch in (0, 2):
        for loader in (alone, workers):
            loader.order.set_epoch(epoch, 20)
        found = [[batch.targets.tolist() for batch in loader] for loader in (alone, workers)]
        assert found[0] == found[1]
        assert found[0]


def test_whole_words(make):
    data = make(whole_words=True, tokenizer=TokenizerConfig("gpt2"), context_length=64)
    assert data.masking.words is not None
    assert all((batch.targets != IGNORED).any(1).all() for batch in data.train_dataloader())


def test_a_resumed_run_has_to_mask_alike(make):
    state = make().state_dict()
    for changed in ({"masked_fraction": 0.3}, {"whole_words": True}):
        (name,) = changed
        data = make(**changed)
        assert {key for key, value in data.state_dict().items() if value != state[key]} == {name}


@pytest.mark.parametrize("fraction", [0.0, 1.5])
def test_bad_fractions_are_named(make, fraction):
    with pytest.raises(ConfigError, match=rf"masked_fraction must be in \(0, 1\], got {fraction}"):
        make(masked_fraction=fraction)


def test_it_has_the_options_of_a_text_data_module():
    parser = ArgumentParser()
    parser.add_class_arguments(MaskedDataModule, "data")
    found = parser.parse_args(["--data.context_length", "12", "--data.masked_fraction", "0.2"]).data
    assert (found.context_length, found.masked_fraction, found.corpus) == (12, 0.2, "story")
    assert "--data.whole_words" in parser.format_help()


def test_no_module_comes_from_a_checkpoint():
    with pytest.raises(CheckpointError, match="make a MaskedDataModule"):
        MaskedDataModule.load_from_checkpoint("any.ckpt")
