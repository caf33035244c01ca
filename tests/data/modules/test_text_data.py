import math
from types import SimpleNamespace

import pytest
import torch

from llm.config import TokenizerConfig
from llm.data import ClassifyDataModule, InstructDataModule, TextDataModule, TranslationDataModule
from llm.data.modules.base import first_words
from llm.errors import CheckpointError, ConfigError, DataError, TokenizerError
from llm.tokenizers import END_OF_TEXT, BPETokenizer, CharTokenizer

CHARS = TokenizerConfig("char")


@pytest.fixture
def make(corpus, tmp_path):
    """Builds data modules over the temporary corpus, one token a character."""

    def build(**options):
        defaults = {
            "corpus": str(corpus),
            "tokenizer": CHARS,
            "context_length": 16,
            "cache_dir": str(tmp_path / "cache"),
        }
        return TextDataModule(**{**defaults, **options})

    return build


def running(what, **options):
    """A trainer, as far as data modules ask one."""
    defaults = {"state": SimpleNamespace(fn=what), "global_rank": 0, "world_size": 1}
    return SimpleNamespace(**{**defaults, **options})


def file(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def rows(loader):
    """All windows of a loader, targets appended to inputs."""
    return [
        [*x, y[-1]] for inputs, targets, *_ in loader for x, y in zip(inputs.tolist(), targets.tolist(), strict=True)
    ]


def test_vocabulary_is_known_before_anything_is_tokenized(make, corpus, tmp_path):
    data = make()
    assert data.vocab_size == len(set(corpus.read_text(encoding="utf-8"))) + 1
    assert type(data.vocab_size) is int
    assert make(tokenizer=TokenizerConfig("gpt2")).vocab_size == 50257
    assert make(tokenizer=CharTokenizer("ab")).vocab_size == 2
    assert not (tmp_path / "cache").exists()


def test_text_is_cut_into_train_and_validation(make, corpus):
    data = make(validation_fraction=0.3)
    ids = data.tokenizer.encode(corpus.read_text(encoding="utf-8"))
    n_validation = math.ceil(0.3 * len(ids))
    assert n_validation > 0.3 * len(ids)
    assert data.train_tokens.tolist() == ids[:-n_validation]
    assert data.validation_tokens.tolist() == ids[-n_validation:]


@pytest.mark.parametrize("stride", [1, 5, None])
def test_no_window_reaches_from_train_into_validation(make, tmp_path, stride):
    numbered = CharTokenizer([chr(0x4E00 + i) for i in range(500)])
    path = file(tmp_path, "numbered.txt", numbered.decode(range(500)))
    data = make(corpus=path, tokenizer=numbered, stride=stride, drop_last=False)
    train, validation = rows(data.train_dataloader()), rows(data.val_dataloader())
    assert max(map(max, train)) < 450 == min(map(min, validation))
    assert len(train) == len(range(0, 450 - 16, stride or 16))
    assert all(row == list(range(row[0], row[0] + 17)) for row in train + validation)


def test_batches_have_the_shape_that_was_asked_for(make):
    inputs, targets, *_ = next(iter(make(batch_size=3).train_dataloader()))
    assert inputs.shape == targets.shape == (3, 16)
    assert inputs[:, 1:].tolist() == targets[:, :-1].tolist()


def test_shuffling_changes_the_order_and_nothing_else(make):
    ascending = rows(make(shuffle=False, drop_last=False).train_dataloader())
    shuffled = rows(make(drop_last=False).train_dataloader())
    assert shuffled != ascending
    assert sorted(shuffled) == sorted(ascending)
    assert rows(make(drop_last=False).train_dataloader()) == shuffled
    assert rows(make(drop_last=False, seed=1).train_dataloader()) != shuffled


def test_validation_windows_lie_side_by_side_and_none_is_left_out(make):
    data = make(batch_size=7, stride=1)
    ids = data.validation_tokens.tolist()
    assert rows(data.val_dataloader()) == [ids[s : s + 17] for s in range(0, len(ids) - 16, 16)]


def test_processes_share_the_windows(make):
    seen = []
    for rank in range(2):
        data = make(batch_size=4)
        data.trainer = running(
            "fit",
            global_rank=rank,
            world_size=2,
            num_training_batches=16,
            fit_loop=SimpleNamespace(total_batch_idx=-1),
        )
        order = data.train_dataloader().order
        seen.append([index for batch in order for index in batch])
    assert len(seen[0]) == len(seen[1]) > 20
    assert not set(seen[0]) & set(seen[1])


def test_a_resumed_run_goes_on_where_it_was(make):
    whole = make()
    per_epoch = len(whole.train_dataloader())
    whole.trainer = running(
        "fit", num_training_batches=per_epoch, fit_loop=SimpleNamespace(total_batch_idx=per_epoch - 1)
    )
    resumed = make()
    resumed.trainer = running(
        "fit", num_training_batches=per_epoch, fit_loop=SimpleNamespace(total_batch_idx=per_epoch + 4)
    )
    second_epoch = rows(whole.train_dataloader())
    assert rows(resumed.train_dataloader()) == second_epoch[5 * 4 :]
    assert second_epoch != rows(make().train_dataloader())


def test_no_validation(make):
    data = make(validation_fraction=0.0)
    data.setup("fit")
    assert len(data.validation_tokens) == 0
    assert data.val_dataloader() == []
    assert len(data.train_tokens) == data.corpus_store.n_tokens


def test_corpora_of_their_own_for_validation_and_test(make, corpus, tmp_path):
    validation, test = (file(tmp_path, name, "The cat sat. " * times) for name, times in (("v", 5), ("t", 7)))
    data = make(validation_corpus=validation, test_corpus=test)
    data.setup("fit")
    assert len(data.train_tokens) == len(corpus.read_text(encoding="utf-8"))
    assert data.tokenizer.decode(data.validation_tokens) == "The cat sat. " * 5
    assert data.tokenizer.decode(data.test_tokens) == "The cat sat. " * 7
    assert len(rows(data.test_dataloader())) == 5


def test_a_test_corpus_that_is_missing_is_refused_before_training(make, tmp_path):
    data = make(test_corpus=str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match=r"no corpus '.*none\.txt'"):
        data.prepare_data()


def test_test_uses_the_validation_tokens_by_default(make):
    data = make()
    assert data.test_tokens.tolist() == data.validation_tokens.tolist()
    assert rows(data.test_dataloader()) == rows(data.val_dataloader())


def test_several_documents(make, tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    file(folder, "b.txt", "bb")
    file(folder, "a.txt", "aa")
    data = make(corpus=str(folder), validation_fraction=0.0)
    assert data.tokenizer.decode(data.train_tokens) == f"aa{END_OF_TEXT}bb"


def test_bytes_per_token_are_counted_over_the_split(make, tmp_path):
    path = file(tmp_path, "bytes.txt", "a" * 900 + "é猫" * 50)
    assert make(corpus=path).bytes_per_token("validation") == 2.5
    assert make(corpus=path, test_corpus=file(tmp_path, "t.txt", "aé")).bytes_per_token("test") == 1.5


def test_bytes_per_token_of_byte_pairs(make, corpus):
    data = make(tokenizer=TokenizerConfig("gpt2"))
    tokens = data.validation_tokens
    n_bytes = sum(len(BPETokenizer().token_bytes(int(token))) for token in tokens)
    assert data.bytes_per_token("validation") == pytest.approx(n_bytes / len(tokens))


def test_bytes_per_word_include_the_white_space(make, tmp_path):
    path = file(tmp_path, "words.txt", "four five  nine\n" * 20)
    data = make(corpus=path, tokenizer=TokenizerConfig("word"))
    assert data.bytes_per_token("validation") == 16 / 3


@pytest.mark.parametrize(
    ("what", "opened"), [("fit", 2), ("validate", 1), ("test", 1), ("predict", 0)], ids=lambda value: str(value)
)
def test_only_what_a_run_needs_is_tokenized(make, tmp_path, what, opened):
    other = file(tmp_path, "other.txt", "The cat sat. " * 9)
    data = make(validation_corpus=other, test_corpus=file(tmp_path, "test.txt", "Ça va; " * 9))
    data.trainer = running(what)
    data.prepare_data()
    data.setup(what)
    cache = tmp_path / "cache"
    assert len(list(cache.iterdir()) if cache.exists() else []) == opened


# Bad input


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("context_length", 0),
        ("stride", 0),
        ("stride", -3),
        ("batch_size", 0),
        ("num_workers", -1),
        ("seed", -1),
        ("validation_fraction", 1.0),
        ("validation_fraction", -0.1),
        ("validation_fraction", math.nan),
    ],
)
def test_bad_settings_are_named(make, name, value):
    with pytest.raises(ConfigError, match=f"{name} must be .*got {value}"):
        make(**{name: value})


@pytest.mark.parametrize(("context_length", "needed"), [(90, 91), (10, 11)])
def test_too_short_a_text_says_what_is_needed_and_found(make, tmp_path, context_length, needed):
    path = file(tmp_path, "short.txt", "0123456789" * 10)
    data = make(corpus=path, context_length=context_length)
    with pytest.raises(DataError) as caught:
        data.setup("fit")
    message = str(caught.value)
    assert f"too short: one window of context_length {context_length} needs {needed} tokens" in message
    assert "train has 90, validation has 10" in message
    assert "\n" not in message
    make(corpus=path, context_length=9).setup("fit")


def test_too_short_a_test_corpus(make, tmp_path):
    path = file(tmp_path, "short.txt", "The cat sat.")
    data = make(test_corpus=path)
    data.setup("fit")
    data.trainer = running("test")
    with pytest.raises(DataError, match="needs 17 tokens, test has 12"):
        data.setup("test")


def test_testing_with_no_tokens_at_all(make):
    data = make(validation_fraction=0.0)
    data.trainer = running("test")
    with pytest.raises(DataError, match="test has 0"):
        data.setup("test")


def test_not_one_full_batch(make):
    assert len(make(batch_size=1000, drop_last=False).train_dataloader()) == 1
    with pytest.raises(DataError, match=r"no full batch.*batch_size of 1000"):
        make(batch_size=1000).train_dataloader()


@pytest.mark.parametrize("kind", ["char", "gpt2"])
def test_a_missing_corpus(make, kind):
    with pytest.raises(DataError, match=r"nowhere\.txt"):
        make(corpus="nowhere.txt", tokenizer=TokenizerConfig(kind)).prepare_data()


def test_a_validation_text_outside_the_vocabulary(make, tmp_path):
    data = make(validation_corpus=file(tmp_path, "other.txt", "The cat\nΩ"))
    with pytest.raises(TokenizerError, match=r"other\.txt.*'Ω' at line 2, column 1"):
        data.prepare_data()


def test_a_tokenizer_from_a_checkpoint_that_is_not_there(make):
    with pytest.raises(CheckpointError, match=r"gone\.ckpt"):
        make(tokenizer=TokenizerConfig(checkpoint="gone.ckpt"))


# What a checkpoint keeps


def test_state_is_primitives_that_the_same_data_accepts(make):
    data = make()
    state = data.state_dict()
    assert all(type(value) in (str, int, bool) for value in state.values())
    again = make()
    again.trainer = running("fit")
    again.load_state_dict(state)


@pytest.mark.parametrize(
    "change",
    [
        {"context_length": 8},
        {"stride": 3},
        {"batch_size": 2},
        {"shuffle": False},
        {"drop_last": False},
        {"seed": 1},
        {"validation_fraction": 0.2},
        {"tokenizer": TokenizerConfig("gpt2")},
        {"corpus": "story"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_changed_data_is_named_unless_it_is_allowed(make, change):
    (setting,) = change
    name = "train_tokens" if setting == "validation_fraction" else setting
    state = make().state_dict()
    changed = make(**change)
    changed.trainer = running("fit")
    with pytest.raises(CheckpointError, match=rf"{name} \(.* in the checkpoint, .* now\)"):
        changed.load_state_dict(state)

    allowed = make(**change, allow_changed_data=True)
    allowed.trainer = running("fit")
    allowed.load_state_dict(state)

    changed.trainer = running("test")
    changed.load_state_dict(state)


# Prompts


def test_prompts_are_the_lines_with_text(make, tmp_path):
    path = file(tmp_path, "prompts.txt", "The cat\n\n  \nÇa va\u2028猫\r\n")
    (prompts,) = make(prompts=path, tokenizer=TokenizerConfig("gpt2")).predict_dataloader()
    assert [(prompt.line, prompt.text) for prompt in prompts] == [(1, "The cat"), (4, "Ça va\u2028猫")]


def test_prompts_are_encoded(make, tmp_path):
    data = make(prompts=file(tmp_path, "prompts.txt", "The cat"))
    ((prompt,),) = data.predict_dataloader()
    assert prompt.ids.tolist() == data.tokenizer.encode("The cat")


def test_bad_prompts(make, tmp_path):
    with pytest.raises(ConfigError, match="prompts"):
        make().predict_dataloader()
    with pytest.raises(DataError, match=r"gone\.txt"):
        make(prompts="gone.txt").predict_dataloader()
    with pytest.raises(TokenizerError, match=r"prompts\.txt', prompt on line 2: .*'Ω'"):
        make(prompts=file(tmp_path, "prompts.txt", "The\nΩ")).predict_dataloader()


def test_documents_may_be_kept_apart(tmp_path):
    for name, text in (("a", "abcabc"), ("b", "cba")):
        (tmp_path / f"{name}.txt").write_text(text * 3)
    options = {"context_length": 12, "batch_size": 1, "cache_dir": str(tmp_path / "cache"), "validation_fraction": 0.0}
    corpus = [str(tmp_path / "a.txt"), str(tmp_path / "b.txt")]
    apart, joined = (
        TextDataModule(corpus, TokenizerConfig("char"), separate_documents=on, shuffle=False, **options)
        for on in (True, False)
    )
    batches = list(zip(apart.train_dataloader(), joined.train_dataloader(), strict=True))
    end = apart.tokenizer.end_of_text_id
    assert any((batch.inputs == end).any() for batch, _ in batches)
    for batch, other in batches:
        assert torch.equal(batch.inputs, other.inputs)
        assert torch.equal(batch.targets, other.targets)
        assert other.documents is None
        (begins,) = (batch.inputs[0] == end).nonzero(as_tuple=True)
        expected = [sum(int(begin) <= place for begin in begins) for place in range(12)]
        assert batch.documents[0].tolist() == expected, "the end of text begins the next document"
    with pytest.raises(ConfigError, match="needs an end-of-text token"):
        TextDataModule(corpus, TokenizerConfig("char", specials=()), separate_documents=True, **options)


@pytest.mark.parametrize("module", [TextDataModule, ClassifyDataModule, InstructDataModule, TranslationDataModule])
def test_the_word_of_a_tokenizer_is_none(module):
    with pytest.raises(ConfigError, match=r"such as llm.TokenizerConfig\('char'\); got 'char'"):
        module(tokenizer="char")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("To be or not to be, that is the question. " * 40, "To be"),
        ("\u4f60\u597d\uff0c\u4e16\u754c" * 40, "\u4f60\u597d\uff0c\u4e16\u754c"),
    ],
)
@pytest.mark.parametrize("kind", ["char", "gpt2"])
def test_a_sample_is_of_whole_words(make, tmp_path, text, expected, kind):
    (tmp_path / "sample.txt").write_text(text, encoding="utf-8")
    data = make(corpus=str(tmp_path / "sample.txt"), tokenizer=TokenizerConfig(kind=kind), stride=4)
    data.prepare_data()
    data.setup("fit")
    sample = data.sample_text()
    assert sample.startswith(expected)
    assert len(sample) <= 8
    assert "\ufffd" not in sample


@pytest.mark.parametrize(
    ("text", "is_cut", "most", "expected"),
    [
        ("Two Herring had met\nby the riv", True, 2, "Two Herring"),
        ("Two Herr", True, 2, "Two"),
        ("Two Herring", False, 2, "Two Herring"),
        ("I will not\nbring the keys.", False, None, "I will not bring the keys."),
        (
            "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\ufffd",
            True,
            2,
            "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211",
        ),
        (" \n", False, None, "Once"),
    ],
)
def test_first_words_are_whole(text, is_cut, most, expected):
    assert first_words(text, is_cut, most) == expected
