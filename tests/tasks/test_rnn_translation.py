"""The task `translate` with recurrent networks: they learn, resume bit for bit, and a checkpoint says what it holds."""

from pathlib import Path

import lightning as L
import pytest
import tiny_runs
import torch

from llm.cli.main import main
from llm.config import OptimConfig, RNNConfig
from llm.data import TranslationDataModule
from llm.generation.translating import load_translator
from llm.model import RNN
from llm.runtime.shipped import DEFAULT_CONFIG
from llm.tasks import TranslationModel

QUIET = {**tiny_runs.QUIET, "check_val_every_n_epoch": None}
PAIRS = [(word, word.upper()) for word in ("abc", "bca", "cab", "ab", "ba", "cb", "ac", "a", "b", "c", "aab", "bbc")]


def write_pairs(folder):
    corpus = folder / "pairs.tsv"
    corpus.write_text("".join(f"{source}\t{target}\n" for source, target in PAIRS))
    return str(corpus)


@pytest.mark.parametrize(
    ("attention", "cell", "steps"), [("bahdanau", "gru", 200), ("none", "gru", 400), ("bahdanau", "lstm", 200)]
)
def test_it_learns_to_translate(tmp_path, attention, cell, steps):
    corpus = write_pairs(tmp_path)
    data = TranslationDataModule(corpus, context_length=8, batch_size=4, validation_corpus=corpus)
    torch.manual_seed(0)
    sizes = {"source_vocab_size": data.source_vocab_size, "n_embd": 16, "hidden_size": 32}
    rnn = RNNConfig(data.vocab_size, 8, attention=attention, cell=cell, **sizes)
    module = TranslationModel(kind="rnn", rnn=rnn, optim=OptimConfig(learning_rate=1e-2, warmup_steps=5), beam=2)
    L.Trainer(max_steps=steps, gradient_clip_val=1.0, limit_val_batches=0, **QUIET).fit(module, data)
    found = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    assert found["validation/exact"] == 1.0
    assert found["validation/token_accuracy"] == 1.0


def test_a_checkpoint_says_which_network_it_is_and_a_run_resumes_bit_for_bit(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = ["fit", "--task=translate", "--model.optim.schedule=warmup_stable_decay", "--model.optim.decay_fraction=0"]
    run += [f"--data.corpus={write_pairs(tmp_path)}", "--data.context_length=8", "--data.batch_size=2"]
    run += [
        "--data.validation_fraction=0.2",
        "--trainer.val_check_interval=4",
        "--trainer.logger.init_args.version=run",
    ]
    own = ["--model.kind=rnn", "--model.rnn.n_embd=6", "--model.rnn.hidden_size=5", "--model.rnn.dropout=0.2"]

    def weights(name, *words):
        assert main([*run, f"--trainer.logger.init_args.name={name}", *words]) == 0
        return torch.load(f"runs/{name}/run/checkpoints/last.ckpt", weights_only=True)["state_dict"]

    whole = weights("whole", *own, "--trainer.max_steps=8")
    weights("stopped", *own, "--trainer.max_steps=3")
    last = Path("runs/stopped/run/checkpoints/last.ckpt")
    resumed = weights("resumed", "--trainer.max_steps=8", f"--ckpt_path={last}")  # the checkpoint knows the network
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    translator = load_translator(last)
    assert isinstance(translator.model, RNN)
    assert translator.model.config.hidden_size == 5
    assert main(["validate", f"--ckpt_path={last}"]) == 0
    assert main(["fit", "--task=translate", "--model.kind=rnn", "--model.rnn.hidden_size=0", *run[4:]]) == 1
    assert "hidden_size" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rnn", "bahdanau"])
def test_the_shipped_configurations_run(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    config = DEFAULT_CONFIG.parent / "contrasts" / f"{name}.yaml"
    words = ["--trainer.max_steps=1", "--model.sentences=1", "--inspect.every=0", "--data.batch_size=4"]
    words += [f"--data.corpus={write_pairs(tmp_path)}", "--data.context_length=8", "--data.validation_fraction=0.2"]
    assert main(["fit", "--config", str(config), *words]) == 0
    (checkpoint,) = Path("runs", name).rglob("last.ckpt")
    attention = load_translator(checkpoint).model.config.attention
    assert attention == {"rnn": "none", "bahdanau": "bahdanau"}[name]


@pytest.mark.parametrize("attention", ["bahdanau", "none"])
def test_a_run_shows_shapes_and_where_there_is_attention_the_alignment(tmp_path, monkeypatch, capsys, attention):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    run = ["fit", "--task=translate", "--model.kind=rnn", f"--model.rnn.attention={attention}", "--trainer.max_steps=2"]
    run += [f"--data.corpus={write_pairs(tmp_path)}", "--data.context_length=8", "--data.batch_size=2"]
    assert main([*run, "--data.validation_fraction=0.2", "--model.rnn.hidden_size=5"]) == 0
    assert "warning: no" not in capsys.readouterr().err
    folder = next(Path("runs").rglob("shapes.md")).parent
    assert "H = 5 (hidden state)" in (folder / "shapes.md").read_text()
    assert (folder / "attention.html").exists() == (attention == "bahdanau")
