import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from llm.config import TokenizerConfig
from llm.data import InstructDataModule
from llm.data.batch import IGNORED
from llm.errors import CheckpointError, ConfigError, DataError
from llm.tokenizers import CharTokenizer

LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz0123456789 \n", ["<|end|>"])


def records(count=20):
    return [{"instruction": f"say {number % 10}", "output": f"it is {number}"} for number in range(count)]


@pytest.fixture
def make(tmp_path):
    def make(content=None, **options):
        path = tmp_path / "records.json"
        path.write_text(json.dumps(records() if content is None else content))
        settings = {"tokenizer": LETTERS, "template": "phi3", "cache_dir": str(tmp_path / "cache"), "batch_size": 4}
        return InstructDataModule(str(path), **{**settings, **options})

    return make


def texts(data, split):
    examples = data.examples(split)
    return sorted(
        data.tokenizer.decode([*inputs, targets[-1]])
        for inputs, targets in map(examples.__getitem__, range(len(examples)))
    )


def test_samples_with_the_same_prompt_are_in_one_split(make):
    data = make(validation_fraction=0.3)
    train, validation = ({text.split("\n")[1] for text in texts(data, split)} for split in ("train", "validation"))
    assert len(train) == 7
    assert len(validation) == 3
    assert not train & validation
    assert len(texts(data, "train")) + len(texts(data, "validation")) == 20
    assert texts(data, "test") == texts(data, "validation")
    assert texts(make(validation_fraction=0.3, seed=9), "validation") == texts(data, "validation")


def test_a_test_corpus_that_is_missing_is_refused_before_training(make, tmp_path):
    with pytest.raises(DataError, match=r"none\.json"):
        make(test_corpus=str(tmp_path / "none.json")).prepare_data()


def test_neither_white_space_nor_case_nor_form_makes_another_prompt(make):
    prompts = [f"Say {number}" for number in range(10)]
    content = [{"prompt": prompt, "completion": "a"} for prompt in prompts]
    content += [{"instruction": "say", "input": f" {number} ", "output": "b"} for number in range(10)]
    data = make(content, validation_fraction=0.4, tokenizer=TokenizerConfig("bpe", vocab_size=300))
    found = {}
    for split in ("train", "validation"):
        found[split] = [talk[0].text.split()[1] for talk in data.conversations(split)]
        assert sorted(found[split]) == sorted(2 * list(set(found[split])))
    assert not set(found["train"]) & set(found["validation"])
    assert len(found["validation"]) == 8


def test_only_answers_have_targets(make):
    data = make(validation_fraction=0.0)
    batch = next(iter(data.train_dataloader()))
    for inputs, targets, length in zip(batch.inputs, batch.targets, batch.lengths, strict=True):
        answer = data.tokenizer.decode(targets[targets != IGNORED].tolist())
        assert answer.startswith("it is ")
        assert answer.endswith("<|end|>")
        assert (targets[int(length) :] == IGNORED).all()
        assert data.tokenizer.decode(inputs[: int(length)].tolist()).startswith("<|user|>\nsay ")
    assert data.val_dataloader() == []
    assert [path.name for path in data.files] == ["records.json"]
    store = data.train_examples.store
    assert data.supervised_fraction == store.n_supervised / store.n_tokens < 0.5


def test_padding_may_have_the_id_of_the_end(make):
    """Pads are known by length: an end that is a real token stays a target, and a pad never is one."""
    ends_at_zero = CharTokenizer(["e", *"abcdfghijklmnopqrstuvwxyz0123456789 \n"])
    data = make(tokenizer=ends_at_zero, special_tokens=["<|end|>"], validation_fraction=0.0, batch_size=20)
    (batch,) = data.train_dataloader()
    end = data.template.end_of_answer(data.tokenizer)
    assert (batch.targets == end).sum() == 20, "every sample's end is learned, once"
    assert {int(lengths) for lengths in batch.lengths} != {batch.inputs.shape[1]}, "there is padding"
    real = torch.arange(batch.inputs.shape[1]) < batch.lengths[:, None]
    assert (batch.inputs[~real] == 0).all()
    assert (batch.targets[~real] == IGNORED).all()


def test_all_may_be_learned_but_the_response_is_what_is_validated_on(make):
    all_of_it, response = make(loss_on="all", validation_fraction=0.3), make(validation_fraction=0.3)
    assert all_of_it.supervised_fraction == 1.0
    for index in range(len(response.examples("validation"))):
        mine, theirs = (data.examples("validation")[index][1] for data in (all_of_it, response))
        assert (mine == theirs).all()


def test_packing_holds_the_same_samples_in_fewer_rows(make):
    packed, plain = (make(packing=on, context_length=100, drop_last=False) for on in (True, False))

    def found(data):
        return sorted(
            int(target) for batch in data.train_dataloader() for target in batch.targets.flatten() if target != IGNORED
        )

    assert found(packed) == found(plain)
    assert len(packed.train_source()) < len(plain.train_source())
    (first, *_), (plain_first, *_) = packed.train_dataloader(), plain.train_dataloader()
    assert first.documents is not None
    assert plain_first.documents is None
    assert first.inputs.shape[1] <= 100
    assert packed.longest_row == max(batch.inputs.shape[1] for batch in packed.train_dataloader())


def test_what_was_lost_is_said_also_when_the_samples_come_from_the_cache(make, caplog):
    content = [*records(), {"instruction": "a" * 200, "output": "short"}, {"instruction": "b", "output": "c" * 200}]
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.INFO, "llm"):
            data = make(content, context_length=60, validation_fraction=0.0)
            data.setup("fit")
        assert "train: 1 prompt was truncated to context_length 60" in caplog.messages
        assert "train: 1 answer is longer than context_length 60 and was left out" in caplog.messages
        assert len(data.train_examples) == 21
    for path in Path(data.cache_dir).glob("*.losses.json"):
        path.unlink()
    assert data.losses("train").truncated == 1, "it is counted again where the count is gone"


@pytest.mark.parametrize(
    ("content", "options", "error", "said"),
    [
        ([], {}, DataError, "holds no conversation"),
        ([{"instruction": "", "output": "x"}], {}, DataError, "record 1: the instruction is empty"),
        ([{"instruction": "a", "output": "b" * 99}], {"context_length": 20}, DataError, "there are no examples"),
        (None, {"template": "nothing"}, ConfigError, "there is no template 'nothing'"),
        (None, {"context_length": 0}, ConfigError, "context_length must be at least 1"),
    ],
)
def test_what_can_not_be_used_is_refused_in_a_line(make, content, options, error, said):
    with pytest.raises(error, match=said) as found:
        make(content, validation_fraction=0.0, **options).setup("fit")
    assert "\n" not in str(found.value)


def test_a_vocabulary_is_learned_from_the_conversations(make):
    data = make(tokenizer=TokenizerConfig("bpe", vocab_size=300), template="chatml")
    assert data.vocab_size == data.tokenizer.vocab_size
    assert data.tokenizer.decode(data.tokenizer.encode("it is 7")) == "it is 7"
    assert {"<|im_start|>", "<|im_end|>"} <= set(data.tokenizer.special_ids)
    assert len(data.tokenizer.encode("it is")) < 5


def test_a_run_with_another_template_is_not_resumed(make):
    state = make().state_dict()
    other = make(template="plain", tokenizer=LETTERS)
    other.trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), global_rank=0, world_size=1)
    with pytest.raises(CheckpointError, match="the training data is not what the checkpoint was trained on"):
        other.load_state_dict(state)


def test_errands_are_validated_on_their_held_out_wordings(tmp_path):
    data = InstructDataModule(
        tokenizer=TokenizerConfig("bpe", vocab_size=700), template="phi3", cache_dir=str(tmp_path)
    )
    assert data.files == []
    asked = [{talk[0].content for talk in data.conversations(split)} for split in ("train", "validation")]
    assert not asked[0] & asked[1]
    assert len(data.conversations("test")) == len(data.conversations("validation")) == 400


def test_the_only_prompt_is_trained_on(make):
    data = make(
        [{"instruction": "say", "output": word} for word in ("yes", "no")], validation_fraction=0.5, batch_size=2
    )
    data.setup("fit")
    assert len(data.train_examples) == 2
    assert len(data.validation_loader()) == 0
