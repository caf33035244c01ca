"""Translation as a task: from pairs of sentences to a checkpoint that translates."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
import pytest
import tiny_runs
import torch
import torch.nn.functional as F
from tiny_runs import Kill

from llm.cli.main import main
from llm.config import OptimConfig, TokenizerConfig, TransformerConfig
from llm.data import TranslationDataModule
from llm.data.batch import IGNORED, TokenBatch
from llm.errors import CheckpointError, ConfigError
from llm.generation.translating import load_translator
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.tasks import LanguageModel, TranslationModel

QUIET = {**tiny_runs.QUIET, "check_val_every_n_epoch": None}
NETWORK = {"n_layer": 1, "n_head": 2, "n_embd": 32, "dropout": 0.0}
PAIRS = [(word, word.upper()) for word in ("abc", "bca", "cab", "ab", "ba", "cb", "ac", "a", "b", "c", "aab", "bbc")]


def make(folder, pairs=PAIRS, options=None, **data_options):
    corpus = folder / "pairs.tsv"
    corpus.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    settings = {"context_length": 8, "batch_size": 4, "validation_corpus": str(corpus)}
    data = TranslationDataModule(str(corpus), **{**settings, **data_options})
    torch.manual_seed(0)
    config = TransformerConfig(
        data.vocab_size, data.context_length, source_vocab_size=data.source_vocab_size, **NETWORK
    )
    return TranslationModel(config, optim=OptimConfig(learning_rate=5e-3, warmup_steps=5), **(options or {})), data


def test_it_learns_to_translate(tmp_path, caplog):
    module, data = make(tmp_path, options={"label_smoothing": 0.1}, share_tokenizer=False)
    options = {**QUIET, "val_check_interval": 150, "num_sanity_val_steps": 0}
    with caplog.at_level("INFO", "llm"):
        L.Trainer(max_steps=150, gradient_clip_val=1.0, **options).fit(module, data)
    found = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    scores = f"BLEU (13a) {found['validation/bleu_13a']:.1f}, chrF {found['validation/chrf']:.1f}"
    assert f"exact:       12 of 12 translations; {scores} (last validation)" in caplog.messages
    assert found["validation/exact"] == 1.0
    assert found["validation/token_accuracy"] == 1.0
    assert {"validation/loss", "validation/bleu_13a", "validation/chrf"} <= set(found)


def test_the_metrics_are_those_of_all_target_tokens_with_the_end(tmp_path):
    module, data = make(tmp_path, options={"sentences": 0, "label_smoothing": 0.3})
    found = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    losses = []
    for source, target in PAIRS:
        ids, end = data.tokenizer.encode(target), data.tokenizer.end_of_text_id
        sources = torch.tensor([[*data.tokenizer.encode(source), end]])
        logits = module.translator.eval()(torch.tensor([[end, *ids]]), None, sources)
        losses += F.cross_entropy(logits[0], torch.tensor([*ids, end]), reduction="none").tolist()
    assert found["validation/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)


@pytest.mark.parametrize("vocab_size", [40, 5000])
def test_a_smoothed_loss_is_a_sum_over_tokens(vocab_size):
    """Batches of any size, and pads, give the loss and the gradients of one batch (torch's own formula)."""
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size, 8, source_vocab_size=9, **{**NETWORK, "n_embd": 8})
    module = TranslationModel(config, label_smoothing=0.1)
    ids, targets = torch.randint(40, (2, 5)), torch.randint(40, (2, 5))
    targets[1, 3:] = IGNORED
    source, lengths, source_lengths = torch.randint(9, (2, 4)), torch.tensor([5, 3]), torch.tensor([4, 2])

    def loss_and_gradients(batches):
        module.zero_grad()
        predictions = [module.loss_of(module.hidden_states(batch), batch) for batch in batches]
        torch.stack([prediction.loss for prediction in predictions]).sum().backward()
        losses = torch.stack([prediction.loss for prediction in predictions]).sum().detach()
        return losses, [parameter.grad.clone() for parameter in module.parameters()]

    together = loss_and_gradients([TokenBatch(ids, targets, lengths, source, source_lengths)])
    rows = [(ids[:1], targets[:1], None, source[:1]), (ids[1:, :3], targets[1:, :3], None, source[1:, :2])]
    alone = loss_and_gradients([TokenBatch(*row) for row in rows])
    module.zero_grad()
    logits = module(ids, lengths, source, source_lengths)
    theirs = F.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), label_smoothing=0.1, reduction="sum", ignore_index=IGNORED
    )
    theirs.backward()
    plain = theirs.detach(), [parameter.grad.clone() for parameter in module.parameters()]
    for loss, gradients in (alone, plain):
        torch.testing.assert_close(loss, together[0])
        for mine, other in zip(gradients, together[1], strict=True):
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"beam": 0, "sentences": -1}, "beam must be at least 1 and at most 1,000, got 0"),
        ({"length_penalty": -1.0}, "length_penalty must be at least 0"),
    ],
)
def test_settings_that_can_not_be(options, expected):
    with pytest.raises(ConfigError, match=expected):
        TranslationModel(TransformerConfig(5, 4, source_vocab_size=5, **NETWORK), **options)


# From the command line

RUN = ["--task=translate", "--model.transformer.n_layer=1", "--model.transformer.n_head=2"]
RUN += ["--model.transformer.n_embd=8", "--data.share_tokenizer=false", "--data.context_length=8"]
RUN += ["--data.batch_size=2", "--trainer.max_steps=3", "--trainer.log_every_n_steps=1", "--inspect.every=0"]
RUN += ["--data.validation_fraction=0.3", "--model.sentences=2"]


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    del capsys  # so that a test can read what the run says
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    Path("pairs.tsv").write_text("".join(f"{target}\t{source}\n" for source, target in PAIRS))
    assert main(["fit", *RUN, "--data.corpus=pairs.tsv", "--data.fields=[2,1]"]) == 0
    return str(next(Path("runs").rglob("last.ckpt")))


def test_its_checkpoint_is_enough_to_translate(trained, capsys):
    assert "python -m llm translate --ckpt" in capsys.readouterr().err
    translator = load_translator(trained)
    assert (translator.source_tokenizer.decode([0, 1]), translator.tokenizer.decode([0, 1])) == ("ab", "AB")
    module = TranslationModel.load_from_checkpoint(trained).eval()
    ids, source = torch.tensor([[3, 0]]), torch.tensor([[0, 3]])
    assert torch.equal(module(ids, None, source), translator.model(ids, None, source))
    with pytest.raises(CheckpointError, match="a checkpoint of the task 'translate', not 'language'"):
        LanguageModel.load_from_checkpoint(trained)


def test_a_test_writes_all_translations_beside_their_references(trained, capsys):
    assert main(["test", "--ckpt_path", trained]) == 0
    output = capsys.readouterr().out
    assert "test/bleu_13a" in output
    assert "test/chrf" in output
    lines = (Path(trained).parents[1] / "translations.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    assert len(records) == 4  # three tenths of twelve pairs, rounded up: the settings of the run
    assert all(record["reference"] == record["source"].upper() for record in records)
    assert {"translation", "log_probability", "score", "ended", "ids"} <= set(records[0])
    assert main(["test", "--ckpt_path", trained, "--model.translations=."]) == 1
    assert "can't write '.': Is a directory; set another model.translations" in capsys.readouterr().err


def test_a_run_goes_on_from_its_checkpoint(trained, capsys):
    data = ["--data.corpus=pairs.tsv", "--data.fields=[2,1]"]
    words = ["--ckpt_path=last", "--trainer.max_steps=6", "--model.label_smoothing=0.1"]
    assert main(["fit", *RUN, *data, *words]) == 0
    assert torch.load(trained, weights_only=True)["global_step"] == 6
    assert "not be the run that it would have been: label_smoothing was 0.0, it is 0.1" in capsys.readouterr().err


@pytest.mark.parametrize("killed_at", [2, 5])
def test_a_killed_run_is_resumed_to_the_same_bits(tmp_path, killed_at):
    def fit(folder, *callbacks, ckpt=None):
        module, data = make(tmp_path, options={"label_smoothing": 0.1, "sentences": 2})
        saves = BestAndLast(str(folder / "checkpoints"))
        options = {**QUIET, "enable_checkpointing": True, "callbacks": [*callbacks, saves], "default_root_dir": folder}
        trainer = L.Trainer(max_steps=7, val_check_interval=1, plugins=[AtomicCheckpointIO()], **options)
        trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
        return module.state_dict()

    whole = fit(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        fit(tmp_path / "killed", Kill(killed_at))
    resumed = fit(tmp_path / "killed", ckpt=tmp_path / "killed" / "checkpoints" / "last.ckpt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_another_tokenizer_of_sources_is_refused(trained, tmp_path, capsys):
    Path("other.tsv").write_text("".join(f"{target}\t{source}d\n" for source, target in PAIRS))
    words = ["--data.corpus=other.tsv", "--data.fields=[2,1]", "--data.source_tokenizer.kind=word"]
    assert main(["fit", *RUN, *words, "--ckpt_path=last", "--trainer.max_steps=5"]) == 1
    assert "data.source_tokenizer.kind is 'char' in the checkpoint, 'word' is given" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["generate", "--prompt=a"], ["fill", "--text=[MASK]"]])
def test_commands_of_other_tasks_refuse_it_in_a_line(trained, words, capsys):
    from llm.__main__ import main as command

    capsys.readouterr()
    assert command([*words, "--ckpt", trained]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "of the task 'translate'" in line


def test_its_default_configuration_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--model.sentences=2"]
    assert main(["fit", "--task=translate", *words]) == 0


def test_tokenizers_of_several_kinds(tmp_path):
    pairs = [("ab cd", "x y"), ("cd ab", "y x")]
    config = TokenizerConfig("word"), TokenizerConfig("bpe", vocab_size=260)
    module, data = make(tmp_path, pairs, share_tokenizer=False, source_tokenizer=config[0], tokenizer=config[1])
    assert (data.source_vocab_size, data.vocab_size) == (4, module.network.config.vocab_size)
    assert L.Trainer(**QUIET).validate(module, data, verbose=False)[0]["validation/loss"] > 0


def test_a_batch_to_overfit_is_what_is_translated(tmp_path):
    module, data = make(tmp_path, validation_corpus=None, validation_fraction=0.4)
    trainer = L.Trainer(max_steps=150, overfit_batches=1, num_sanity_val_steps=0, val_check_interval=150, **QUIET)
    trainer.fit(module, data)
    trained_on = data.sentences("validation", 100)
    assert len(trained_on) == 4
    assert all(pair in data.pairs("train") for pair in trained_on)
    assert trainer.callback_metrics["validation/exact"] == 1.0


def test_no_process_translates_where_weights_are_sharded(tmp_path, monkeypatch):
    module, data = make(tmp_path)
    monkeypatch.setattr("llm.tasks.translate.is_sharded", lambda strategy: True)
    assert "validation/exact" not in L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    with pytest.raises(ConfigError, match="strategy fsdp, which shards the weights: test on one device"):
        L.Trainer(**QUIET).test(module, data, verbose=False)


def test_a_run_without_looks_writes_nothing_to_look_at(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("llm.runs.processes.is_sharded", lambda strategy: True)
    Path("pairs.tsv").write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    assert main(["fit", *RUN, "--data.corpus=pairs.tsv", "--inspect.every=1"]) == 0
    assert "no inspection and no samples" in capsys.readouterr().err
    assert not [*Path("runs").rglob("attention.html"), *Path("runs").rglob("shapes.md")]
