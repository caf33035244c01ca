"""Instructions as a task: from records to a checkpoint that answers."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import QUIET

from llm.cli.main import main as train
from llm.config import GPTConfig, OptimConfig
from llm.data import InstructDataModule
from llm.data.batch import IGNORED
from llm.data.chat.samples import Losses
from llm.evaluation.answers import Answer
from llm.pretrained import grow_vocabulary, read_pretrained
from llm.pretrained.checkpoint import checkpoint_of, read_checkpoint, write_checkpoint
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.tasks import InstructModel
from llm.tasks.answers import Answers
from llm.tokenizers import CharTokenizer

REPOSITORY = Path(__file__).parents[2]
LETTERS = CharTokenizer("abcdefghijklmnopqrstuvwxyz0123456789 \n")
RUN = ["--task=instruct", "--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8"]
RUN += ["--data.corpus=records.jsonl", "--data.context_length=48", "--data.tokenizer.kind=char", "--data.batch_size=2"]
RUN += ["--data.tokenizer.vocab_size=null", "--trainer.max_steps=3", "--trainer.log_every_n_steps=1"]
RUN += ["--trainer.val_check_interval=3", "--inspect.every=0", "--answers.max_new_tokens=4", "--model.optim.kind=adamw"]


def main(words):
    """As from a shell: a task has a default file of its own."""
    return train(words, default_config=REPOSITORY / "configs" / "default.yaml")


def write_records(count=12):
    records = [
        {"instruction": f"spell 0123456789 {number}", "output": "abc" * (number % 3 + 1)} for number in range(count)
    ]
    Path("records.jsonl").write_text("\n".join(map(json.dumps, records)))


def make(**options):
    write_records()
    settings = {"tokenizer": LETTERS, "template": "phi3", "batch_size": 2, "context_length": 48}
    data = InstructDataModule("records.jsonl", **{**settings, **options})
    torch.manual_seed(0)
    config = GPTConfig(data.vocab_size, data.context_length, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
    return InstructModel(config, OptimConfig(learning_rate=1e-2, warmup_steps=2)), data


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")


def test_the_loss_is_that_of_the_answers_whatever_the_batches():
    """A mean over tokens, not of means over batches."""
    module, data = make(drop_last=False)
    found = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    losses = []
    for batch in data.val_dataloader():
        learned = batch.targets != IGNORED
        logits = module.gpt.eval()(batch.inputs)[learned]
        losses += F.cross_entropy(logits, batch.targets[learned], reduction="none").tolist()
    assert found["validation/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.mark.parametrize("packing", [False, True])
def test_accumulated_batches_of_unequal_answers_make_the_step_of_one_batch(packing):
    """Neither the number of answers' tokens in a batch nor packing changes what a token weighs."""

    wide = {"validation_fraction": 0.0, "context_length": 160}  # three samples or more in a row

    def gradients(batch_size, accumulate, packing=False):
        module, data = make(batch_size=batch_size, packing=packing, shuffle=False, **wide)
        trainer = L.Trainer(max_steps=1, accumulate_grad_batches=accumulate, limit_val_batches=0, **QUIET)
        trainer.fit(module, data)
        return {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}

    whole = gradients(12, 1)
    rows = len(make(packing=True, **wide)[1].train_source())
    assert rows <= 4
    parts = gradients(1, rows, packing=True) if packing else gradients(3, 4)
    assert whole.keys() == parts.keys() != set()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, atol=1e-5, rtol=1e-4)


def test_weights_with_fewer_tokens_grow():
    _, data = make()
    base = InstructModel(GPTConfig(LETTERS.vocab_size, 48, n_layer=1, n_head=2, n_embd=16, tie_head=False))
    checkpoint = Path("base.ckpt")
    write_checkpoint(checkpoint_of(base.gpt.config, base.gpt.state_dict(), LETTERS), checkpoint)
    config = GPTConfig(data.vocab_size, 48, n_layer=1, n_head=2, n_embd=16, tie_head=False)
    grown = InstructModel(config, pretrained=str(checkpoint)).gpt
    V = LETTERS.vocab_size
    for name in ("embeddings.token", "head"):
        mine, theirs = grown.get_submodule(name).weight, base.gpt.get_submodule(name).weight
        assert torch.equal(mine[:V], theirs)
        assert mine.shape[0] == data.vocab_size == V + 4
        distance = (mine[V:] - theirs.mean(0)).abs().max()
        assert 0 < distance < theirs.std()
    ids = torch.tensor([LETTERS.encode("spell 7")])
    torch.testing.assert_close(grown.eval()(ids)[..., :V], base.gpt.eval()(ids))
    tied = read_pretrained(checkpoint)
    assert grow_vocabulary(tied, V) is tied


@pytest.fixture
def trained(capsys):
    del capsys  # so that a test can read what the run says
    write_records()
    assert main(["fit", *RUN]) == 0
    return str(next(Path("runs").rglob("last.ckpt")))


def test_a_run_shows_a_sample_and_answers(trained, capsys):
    said = capsys.readouterr().err
    assert "[[" in said.split("a sample, what is supervised between [[ and ]]:")[1]
    assert "<|end|>]]" in said
    assert "supervised:" in said
    assert "python -m llm chat --ckpt" in said
    assert re.search(r"^exact:       [0-2] of 2 answers \(validation, step 3\)$", said, re.MULTILINE), said
    events = EventAccumulator(str(Path(trained).parents[1]), {"tensors": 0, "scalars": 0}).Reload()
    assert {"sample/text_summary", "answers/text_summary"} <= set(events.Tags()["tensors"])
    scalars = set(events.Tags()["scalars"])
    assert {
        "validation/exact_match",
        "validation/ended_fraction",
        "validation/loss",
        "validation/perplexity",
    } <= scalars
    (sample,) = events.Tensors("sample/text_summary")[0].tensor_proto.string_val
    assert "**`<|end|>`**" in sample.decode()


def test_a_test_measures_all_answers_and_writes_them_beside_their_references(trained, capsys):
    assert main(["test", "--ckpt_path", trained, "--answers.max_new_tokens=4"]) == 0
    output = capsys.readouterr().out
    for name in ("exact_match", "ended_fraction", "rouge_l", "bleu", "chrf", "loss", "perplexity", "token_accuracy"):
        assert f"test/{name}" in output
    lines = (Path(trained).parents[1] / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    found = [json.loads(line) for line in lines]
    assert len(found) == 2, "a tenth of twelve, at least"
    assert {"question", "reference", "answer", "ended", "exact", "tokens"} == set(found[0])
    assert found[0]["question"].startswith("spell ")


def test_template_and_text_come_with_the_run(trained):
    entry = read_checkpoint(trained)["llm"]
    assert entry["task"] == "instruct"
    assert entry["template"]["end"] == "<|end|>"
    assert read_pretrained(trained).template == entry["template"]
    other = ["--data.template=plain", "--trainer.logger.init_args.version=plain"]
    assert main(["fit", *RUN, *other]) == 0
    plain = str(next(Path("runs/instruct/plain").rglob("last.ckpt")))
    assert main(["validate", "--ckpt_path", plain, "--answers.max_new_tokens=4"]) == 0, "without its template"


def test_a_run_goes_on_from_its_checkpoint(trained):
    assert main(["fit", *RUN, "--ckpt_path=last", "--trainer.max_steps=5"]) == 0
    assert torch.load(trained, weights_only=True)["global_step"] == 5


def test_it_begins_with_the_weights_of_a_language_model(capsys):
    write_records()
    Path("text.txt").write_text("spell 0123456789 abc bca\n" * 60)
    words = ["--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.corpus=text.txt"]
    words += ["--data.context_length=48", "--data.tokenizer.kind=char", "--trainer.max_steps=1", "--inspect.every=0"]
    assert main(["fit", *words, "--samples.every=0"]) == 0
    base = str(next(Path("runs/gpt").rglob("last.ckpt")))
    others = [word for word in RUN if "tokenizer" not in word and "model.gpt" not in word]
    assert main(["fit", *others, "--model.pretrained", base]) == 0, capsys.readouterr().err
    trained = read_pretrained(next(Path("runs/instruct").rglob("last.ckpt")))
    assert trained.config.vocab_size == read_pretrained(base).config.vocab_size + 4


def test_the_preflight_shows_a_sample_and_what_is_lost(capsys):
    write_records()
    assert main(["fit", *RUN, "--data.context_length=32", "--preflight"]) == 0
    said = capsys.readouterr().err
    assert "[[" in said.split("a sample, what is supervised between [[ and ]]:")[1]
    assert "prompts were truncated to context_length 32" in said
    (corpus,) = (line for line in said.splitlines() if line.startswith("corpus "))
    assert "records.jsonl, " in corpus, "a file and its size"
    assert not Path("runs").exists()


def test_predict_is_refused_in_a_line(trained, capsys):
    capsys.readouterr()
    assert main(["predict", "--ckpt_path", trained]) == 1
    assert capsys.readouterr().err == "error: predict does nothing with the task instruct: use python -m llm chat\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data.template=nothing"], "there is no template 'nothing'"),
        (["--data.corpus=none.json"], "No such file"),
        (["--data.corpus=text.txt"], "neither .json nor .jsonl"),
        (["--answers.validation=-1"], "answers.validation must be at least 0, got -1"),
    ],
)
def test_what_can_not_be_used_is_one_line(words, said, capsys):
    write_records()
    Path("text.txt").write_text("text")
    assert main(["fit", *RUN, *words]) == 1
    assert said in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_shipped_configuration_runs(capsys):
    words = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--inspect.every=0", "--answers.validation=2"]
    assert main(["fit", "--config", str(REPOSITORY / "configs/finetune/instruct.yaml"), *words]) == 0
    settings = yaml.safe_load(next(Path("runs").rglob("config.yaml")).read_text())
    assert settings["data"]["corpus"] == "errands"


def test_batches_to_overfit_are_what_is_answered():
    module, data = make()
    trainer = L.Trainer(max_steps=1, overfit_batches=2, num_sanity_val_steps=0, **QUIET)
    trainer.fit(module, data)
    asked = data.conversations_to_overfit()
    rows = data.rows_to_overfit()
    assert len(asked) == len(rows) == 4
    ids = [data.maker.samples(conversation, Losses()) for conversation in asked]
    assert {tuple(sample.inputs) for samples in ids for sample in samples} == {
        tuple(data.train_examples[row][0].tolist()) for row in rows
    }


def test_the_end_of_a_run_says_how_many_answers_were_exact_at_the_best_validation(tmp_path, caplog, monkeypatch):
    """Of those as good, the first: the one whose weights are in `best.ckpt`; also where it was before an interrupt."""

    def fit(steps, ckpt=None):
        module, data = make(validation_fraction=0.25)
        measured = {1: (2.0, 1), 2: (1.0, 2), 3: (1.0, 3), 4: (math.nan, 0)}

        def answer(*_):
            n_exact = measured[module.global_step][1]
            return [Answer("q", "a", "a" if number < n_exact else "b", True, 1) for number in range(3)]

        monkeypatch.setattr(Answers, "_answer", answer)
        module.split_values = lambda _: {"loss": measured[module.global_step][0]}
        callbacks = [Answers(), best := BestAndLast(str(tmp_path / "checkpoints"))]
        options = {**QUIET, "enable_checkpointing": True, "callbacks": callbacks, "num_sanity_val_steps": 0}
        caplog.clear()
        with caplog.at_level("INFO", "llm"):
            trainer = L.Trainer(max_steps=steps, val_check_interval=1, plugins=[AtomicCheckpointIO()], **options)
            trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
        assert best.best_step == 2
        return [message for message in caplog.messages if message.startswith("exact:")]

    assert fit(3) == ["exact:       2 of 3 answers (validation, step 2)"]
    assert fit(4, tmp_path / "checkpoints" / "last.ckpt") == ["exact:       2 of 3 answers (validation, step 2)"]
