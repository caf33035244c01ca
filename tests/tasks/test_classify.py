"""Labels as a task: from texts in a file to a checkpoint that labels others."""

from __future__ import annotations

import logging
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import QUIET

import llm
from llm.cli.main import main
from llm.config import ClassifierConfig, GPTConfig, LoRAConfig, OptimConfig, TokenizerConfig
from llm.data import ClassifyDataModule
from llm.errors import CheckpointError, ConfigError
from llm.inspection import inspect
from llm.model import GPT, Classifier
from llm.pretrained.checkpoint import checkpoint_of
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.runtime.shipped import DEFAULT_CONFIG
from llm.tasks import LanguageModel, TextClassifier
from llm.tokenizers import CharTokenizer

CHARS = CharTokenizer([chr(code) for code in range(32, 127)])
RUN = [
    "--task=classify",
    "--model.gpt.n_layer=1",
    "--model.gpt.n_head=2",
    "--model.gpt.n_embd=8",
    "--data.batch_size=4",
]
RUN += ["--trainer.max_steps=3", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1", "--inspect.every=2"]


def rows(n):
    """Texts whose label is in the order of their words: no bag of words tells it."""
    return [(f"{a} then {b} {k}", a) for k in range(n) for a, b in (("red", "blue"), ("blue", "red"))]


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "order.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows(40)))
    return path


def make(corpus, **options):
    cache = str(corpus.parent / "cache")
    data = ClassifyDataModule(
        str(corpus), tokenizer=TokenizerConfig("word"), context_length=8, cache_dir=cache, **options
    )
    torch.manual_seed(0)
    config = ClassifierConfig(data.vocab_size, 8, 1, 2, 16, dropout=0.0, labels=data.labels)
    return TextClassifier(config, OptimConfig(learning_rate=1e-2, warmup_steps=5)), data


def test_it_learns_what_no_bag_of_words_tells(corpus, caplog):
    module, data = make(corpus)
    with caplog.at_level(logging.INFO, logger="llm"):
        trainer = L.Trainer(max_steps=60, **QUIET)
        trainer.fit(module, data)
        found = trainer.test(module, data, verbose=False)[0]
    assert found["test/accuracy"] == found["test/balanced_accuracy"] == found["test/auroc"] == 1.0
    assert "accuracy:    100.0 % (test); Naive Bayes " in caplog.text
    assert "this is no better" not in caplog.text
    assert module.class_metrics["test"].confusion.tolist() == [[8, 0], [0, 8]]


def test_a_result_below_the_baseline_is_said(corpus, caplog):
    module, data = make(corpus)
    torch.nn.init.zeros_(module.network.head.weight)
    with torch.no_grad():
        module.network.head.bias.copy_(torch.tensor([5.0, 0.0]))
    with caplog.at_level(logging.INFO, logger="llm"):
        L.Trainer(**QUIET).test(module, data, verbose=False)
    assert "which needs no network: the run shows nothing yet" in caplog.text
    assert "every text was given the label 'blue'" in caplog.text


def test_what_is_said_at_the_end_is_of_the_best_validation(corpus, caplog):
    class Ruin(L.Callback):
        """From then on every text is given one label."""

        def on_validation_start(self, trainer, module):
            if trainer.global_step == 60:
                module.network.head.weight.data.zero_()
                module.network.head.bias.data.copy_(torch.tensor([5.0, 0.0]))

    module, data = make(corpus)
    with caplog.at_level(logging.INFO, logger="llm"):
        options = {"val_check_interval": 30, "check_val_every_n_epoch": None, "enable_checkpointing": True}
        callbacks = [Ruin(), BestAndLast(str(corpus.parent / "checkpoints"))]
        L.Trainer(max_steps=60, callbacks=callbacks, **{**QUIET, **options}).fit(module, data)
    assert int((module.class_metrics["validation"].confusion.sum(0) > 0).sum()) == 1, "the last validation is ruined"
    assert "(validation, step 30); Naive Bayes" in caplog.text
    assert "every text was given" not in caplog.text


def test_without_checkpoints_it_is_of_the_last(corpus, caplog):
    module, data = make(corpus)
    with caplog.at_level(logging.INFO, logger="llm"):
        L.Trainer(max_steps=1, limit_train_batches=1, num_sanity_val_steps=0, **QUIET).fit(module, data)
    assert "(last validation); Naive Bayes" in caplog.text


def test_the_metrics_are_those_of_the_texts_one_by_one(corpus):
    module, data = make(corpus, batch_size=7)
    found = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    network, losses, hits = module.classifier.eval(), [], []
    for row in data.rows["validation"]:
        logits = network(torch.tensor([data.tokenizer.encode(row.text)]))
        target = torch.tensor([data.labels.index(row.label)])
        losses.append(float(F.cross_entropy(logits, target)))
        hits.append(bool(logits.argmax(-1) == target))
    assert found["validation/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert found["validation/accuracy"] == pytest.approx(sum(hits) / len(hits))
    assert "validation/perplexity" not in found


def test_weights_of_labels_multiply_losses(tmp_path):
    path = tmp_path / "rare.csv"
    path.write_text("text,label\n" + "".join(f"word {n},{'rare' if n < 10 else 'usual'}\n" for n in range(40)))
    (plain, data), (_, weighted) = make(path), make(path, balance="weights")
    batch = next(iter(data.train_dataloader()))
    hidden = plain.hidden_states(batch)
    losses = []
    for module in (data, weighted):
        plain._trainer = None
        trainer = L.Trainer(**QUIET)
        trainer.datamodule = module
        plain.trainer = trainer
        losses.append(float(plain.loss_of(hidden, batch).loss))
    targets = batch.targets.max(1).values
    each = F.cross_entropy(plain.classifier.head(hidden), targets, reduction="none")
    weights = torch.tensor(weighted.class_weights)[targets]
    assert losses == pytest.approx([float(each.sum()), float((each * weights).sum())], rel=1e-5)


# From trained weights


@pytest.fixture
def pretrained(tmp_path):
    torch.manual_seed(1)
    model = GPT(GPTConfig(CHARS.vocab_size, 64, 2, 2, 8, dropout=0.0))
    path = tmp_path / "gpt.ckpt"
    torch.save(checkpoint_of(model.config, model.state_dict(), CHARS), path)
    return path, model


def test_it_begins_with_the_weights_of_a_language_model(pretrained):
    path, model = pretrained
    config = ClassifierConfig(**{**model.config.to_dict(), "context_length": 16, "labels": ["a", "b", "c"]})
    network = TextClassifier(config, pretrained=str(path)).classifier
    theirs = model.state_dict()
    for name, tensor in network.state_dict().items():
        if name.startswith("head."):
            assert tensor.shape[0] == 3
        else:
            assert torch.equal(tensor, theirs[name][: len(tensor)]), name
    with pytest.raises(ConfigError, match=r"n_layer \(2 in the weights, 1 requested\)"):
        TextClassifier(ClassifierConfig(CHARS.vocab_size, 16, 1, 2, 8), pretrained=str(path))


@pytest.mark.parametrize(
    ("train", "lora", "expected"),
    [
        ("head", 0, {"head"}),
        ("last_block", 0, {"head", "blocks.1", "final_norm"}),
        (None, 2, {"head", "lora"}),
        ("all", 0, {"head", "blocks.0", "blocks.1", "final_norm", "embeddings"}),
    ],
)
def test_what_is_trained_has_the_head_with_it(pretrained, train, lora, expected):
    path, model = pretrained
    config = ClassifierConfig(**{**model.config.to_dict(), "labels": ["a", "b"]})
    module = TextClassifier(config, pretrained=str(path), train=train, lora=LoRAConfig(rank=lora))
    trained = {name for name, parameter in module.network.named_parameters() if parameter.requires_grad}
    parts = {
        "lora" if "lora" in name else ".".join(name.split(".")[: 2 if "blocks" in name else 1]) for name in trained
    }
    assert parts == expected


def test_adapters_are_saved_with_their_head(pretrained, corpus):
    path, model = pretrained
    data = ClassifyDataModule(
        str(corpus), tokenizer=CHARS, context_length=64, cache_dir=str(corpus.parent / "cache"), batch_size=8
    )
    config = ClassifierConfig(**{**model.config.to_dict(), "labels": data.labels})
    lora = LoRAConfig(rank=2, adapter_only=True)
    module = TextClassifier(config, OptimConfig(learning_rate=1e-2), pretrained=str(path), lora=lora)
    trainer = L.Trainer(max_steps=3, limit_val_batches=0, **QUIET)
    trainer.fit(module, data)
    saved = corpus.parent / "adapters.ckpt"
    trainer.save_checkpoint(saved)
    names = set(torch.load(saved, weights_only=True)["state_dict"])
    assert {"network.head.weight", "network.head.bias"} < names
    assert any(name.endswith("lora_b") for name in names)
    assert "network.blocks.0.attention.qkv.weight" not in names
    ids = torch.randint(CHARS.vocab_size, (2, 9))
    torch.testing.assert_close(llm.load(saved).model(ids), module.eval()(ids), atol=1e-5, rtol=1e-4)


def test_the_shipped_configuration_begins_with_trained_weights(pretrained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("rows.csv").write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows(40)))
    config = DEFAULT_CONFIG.parent / "finetune" / "classify_pretrained.yaml"
    path, model = pretrained
    words = [f"--model.pretrained={path}", "--data.corpus=rows.csv", "--trainer.max_steps=2", "--inspect.every=0"]
    assert main(["fit", "--config", str(config), *words, "--data.context_length=64"]) == 0
    (saved,) = Path("runs").rglob("last.ckpt")
    found = torch.load(saved, weights_only=True)["state_dict"]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(found[f"network.{name}"], tensor)}
    assert {name.split(".")[1] for name in changed if name.startswith("blocks")} == {"1"}, "train: last_block"


# On the command line


@pytest.fixture
def trained(corpus, monkeypatch, capsys):
    del capsys  # so that a test can read what the run says
    monkeypatch.chdir(corpus.parent)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    own = ["--data.validation_corpus=null", "--data.test_corpus=null", f"--data.corpus={corpus}"]
    assert main(["fit", *RUN, *own]) == 0
    return str(next(Path("runs").rglob("last.ckpt")))


def test_a_run_shows_what_happens_inside_it(trained, capsys):
    folder = Path(trained).parents[1]
    said = capsys.readouterr().err
    assert "python -m llm classify --ckpt" in said
    assert "in this run" not in said
    assert "labels " in said
    assert "Naive Bayes" in said
    assert "| logits | (B, N) | 4x2 |" in (folder / "shapes.md").read_text()
    events = EventAccumulator(str(folder), {"images": 0, "tensors": 0, "scalars": 0}).Reload()
    tags = events.Tags()
    assert {
        *(f"within attention/{name}" for name in ("layer 0", "last token")),
        *(f"within labels/{name}" for name in ("attribution", "confusion matrix")),
    } <= set(tags["images"])
    assert {"train/accuracy", "validation/balanced_accuracy", "validation/f1_macro", "validation/auroc"} <= set(
        tags["scalars"]
    )
    assert "train/perplexity" not in tags["scalars"]
    assert {f"{name}/text_summary" for name in ("2 shapes", "5 logit lens", "4 preflight")} <= set(tags["tensors"])
    assert '"labels":true' in (folder / "attention.html").read_text(encoding="utf-8")


def test_its_checkpoint_is_enough_to_use_it(trained):
    model, tokenizer = llm.load(trained)
    assert isinstance(model, Classifier)
    assert model.config.labels == ("blue", "red")
    (found,) = llm.classify_texts(model, tokenizer, ["red then blue 3"])
    assert sum(found.probabilities.values()) == pytest.approx(1.0)
    assert inspect(trained, "red then blue 3")["logits"].shape == (1, 2)
    module = TextClassifier.load_from_checkpoint(trained)
    assert module.labels == ("blue", "red")
    with pytest.raises(CheckpointError, match="a checkpoint of the task 'classify', not of a language model"):
        LanguageModel(pretrained=trained)


def test_validate_and_test_use_the_texts_and_the_labels_of_the_run(trained, corpus, capsys):
    for command, metric in (("validate", "validation/accuracy"), ("test", "test/balanced_accuracy")):
        assert main([command, "--ckpt_path", trained]) == 0
        assert metric in capsys.readouterr().out
    other = corpus.parent / "other.csv"
    other.write_text("text,label\ngreen then red,green\nred then blue 99,red\n")
    assert main(["test", "--ckpt_path", trained, f"--data.test_corpus={other}"]) == 1
    assert "other.csv', line 2: the label 'green' (test) is none of those that are trained: blue, red" in (
        capsys.readouterr().err
    )


def test_a_run_goes_on_from_its_checkpoint_and_another_begins_with_it(trained, corpus, capsys):
    own = ["--data.validation_corpus=null", "--data.test_corpus=null", f"--data.corpus={corpus}"]
    assert main(["fit", *RUN, *own, "--ckpt_path=last", "--trainer.max_steps=5"]) == 0
    assert torch.load(trained, weights_only=True)["global_step"] == 5
    capsys.readouterr()
    new = ["fit", "--task=classify", *own, f"--model.pretrained={trained}", "--preflight"]
    assert main(new) == 0
    assert "blue " in capsys.readouterr().err
    module = TextClassifier(
        ClassifierConfig(**torch.load(trained, weights_only=True)["llm"]["network"]), pretrained=trained
    )
    saved = torch.load(trained, weights_only=True)["state_dict"]
    assert torch.equal(module.network.head.weight, saved["network.head.weight"]), "the labels are the same"


def test_predict_is_refused_in_a_line(trained, capsys):
    capsys.readouterr()
    assert main(["predict", "--ckpt_path", trained]) == 1
    assert capsys.readouterr().err == "error: predict does nothing with the task classify: use python -m llm classify\n"


def test_the_best_validation_is_kept_where_a_run_goes_on(corpus, caplog):
    def fit(steps, bias, ckpt=None):
        module, data = make(corpus)
        callbacks = [best := BestAndLast(str(corpus.parent / "checkpoints"))]
        options = {**QUIET, "enable_checkpointing": True, "callbacks": callbacks, "num_sanity_val_steps": 0}
        trainer = L.Trainer(max_steps=steps, limit_train_batches=1, plugins=[AtomicCheckpointIO()], **options)

        def give_one_label(*_):
            module.network.head.weight.data.zero_()
            module.network.head.bias.data.copy_(torch.tensor(bias))

        module.on_validation_start = give_one_label
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="llm"):
            trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
        assert best.best_step == 1
        assert "(validation, step 1); Naive Bayes" in caplog.text
        assert "every text was given the label 'blue'" in caplog.text, "the label of the best validation"

    fit(1, [0.5, 0.0])
    fit(2, [0.0, 90.0], corpus.parent / "checkpoints" / "last.ckpt")  # worse


def test_batches_to_overfit_are_not_compared_with_what_is_held_out(corpus, caplog):
    module, data = make(corpus)
    with caplog.at_level(logging.INFO, logger="llm"):
        L.Trainer(max_steps=1, overfit_batches=1, num_sanity_val_steps=0, **QUIET).fit(module, data)
    assert "Naive Bayes" not in caplog.text
    assert caplog.text.count("to train on;") == 1
