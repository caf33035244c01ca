"""Masked words as a task: from a text to a checkpoint that fills in what is hidden."""

from __future__ import annotations

import math
from pathlib import Path

import lightning as L
import pytest
import tiny_runs
import torch
import torch.nn.functional as F
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import llm
from llm.cli.main import main
from llm.config import EncoderConfig, GPTConfig, OptimConfig, TokenizerConfig
from llm.data import MaskedDataModule
from llm.data.batch import IGNORED, TokenBatch
from llm.errors import CheckpointError, ConfigError
from llm.inspection import inspect
from llm.model import Encoder, build_network
from llm.pretrained.checkpoint import checkpoint_of
from llm.tasks import LanguageModel, MaskedLanguageModel
from llm.tokenizers import MASK

QUIET = {**tiny_runs.QUIET, "check_val_every_n_epoch": None}
RUN = ["--task=masked", "--model.encoder.n_layer=1", "--model.encoder.n_head=2", "--model.encoder.n_embd=8"]
RUN += ["--data.context_length=16", "--data.tokenizer.kind=char", "--data.batch_size=2", "--trainer.max_steps=3"]
RUN += ["--trainer.limit_val_batches=2", "--trainer.log_every_n_steps=1", "--inspect.every=2"]


def make(folder, text, learning_rate=1e-2, **options):
    corpus = folder / "corpus.txt"
    corpus.write_text(text)
    settings = {"context_length": 16, "batch_size": 8, "stride": 5, "cache_dir": str(folder / "cache")}
    data = MaskedDataModule(corpus=str(corpus), tokenizer=TokenizerConfig("char"), **{**settings, **options})
    torch.manual_seed(0)
    config = EncoderConfig(
        data.vocab_size, data.context_length, n_layer=1, n_head=2, n_embd=32, positions="rotary", dropout=0.0
    )
    return MaskedLanguageModel(config, OptimConfig(learning_rate=learning_rate, warmup_steps=5)), data


def test_it_learns_what_the_text_determines(tmp_path):
    module, data = make(tmp_path, "abcdefgh" * 200, learning_rate=5e-3)
    before = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    assert before["validation/loss"] == pytest.approx(math.log(data.vocab_size), abs=0.3)
    L.Trainer(max_steps=600, gradient_clip_val=1.0, limit_val_batches=0, **QUIET).fit(module, data)
    after = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    assert after["validation/token_accuracy"] > 0.97
    assert after["validation/loss"] < 0.15


def test_the_metrics_are_those_of_the_masked_positions(tmp_path):
    module, data = make(tmp_path, "the cat sat on the mat, and the dog sat by the door; " * 8)
    found = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]
    assert "validation/bits_per_byte" not in found
    losses, hits = [], []
    for batch in data.val_dataloader():
        supervised = batch.targets != IGNORED
        logits = module.encoder.eval()(batch.inputs)[supervised]
        losses += F.cross_entropy(logits, batch.targets[supervised], reduction="none").tolist()
        hits += (logits.argmax(-1) == batch.targets[supervised]).tolist()
    assert found["validation/loss"] == pytest.approx(sum(losses) / len(losses), abs=1e-5)
    assert found["validation/token_accuracy"] == pytest.approx(sum(hits) / len(hits), abs=1e-6)


@pytest.mark.parametrize("vocab_size", [40, 5000])
def test_what_is_in_the_padding_changes_neither_loss_nor_gradient(vocab_size):
    torch.manual_seed(0)
    module = MaskedLanguageModel(EncoderConfig(vocab_size, 12, n_layer=2, n_head=2, n_embd=8, dropout=0.0))
    lengths = torch.tensor([12, 5, 1])
    ids, targets = torch.randint(40, (3, 12)), torch.full((3, 12), IGNORED)
    targets[0, [2, 9]], targets[1, [0, 4]], targets[2, 0] = ids[0, [2, 9]], ids[1, [0, 4]], 7

    def loss_and_gradients(batches):
        module.zero_grad()
        predictions = [module.loss_of(module.hidden_states(batch), batch, True) for batch in batches]
        loss = torch.stack([prediction.loss for prediction in predictions]).sum()
        loss.backward()
        return loss.detach(), [parameter.grad.clone() for parameter in module.parameters()]

    together = loss_and_gradients([TokenBatch(ids, targets, lengths)])
    others = torch.where(torch.arange(12) < lengths[:, None], ids, (ids + 1) % 40)
    changed = loss_and_gradients([TokenBatch(others, targets, lengths)])
    alone = loss_and_gradients(
        [TokenBatch(ids[row : row + 1, :n], targets[row : row + 1, :n]) for row, n in enumerate(lengths.tolist())]
    )
    for loss, gradients in (changed, alone):
        torch.testing.assert_close(loss, together[0])
        for mine, theirs in zip(gradients, together[1], strict=True):
            torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_a_counted_step_has_the_operations_of_the_formula():
    config = EncoderConfig(500, 64, n_layer=2, n_head=4, n_embd=64)
    module = MaskedLanguageModel(config)
    # Matrices: 12 C² a block, C² and V C in the head; two products of T C for each token in attention.
    products = 2 * 12 * 64**2 + 64**2 + 500 * 64 + 2 * 2 * 64 * 64
    assert module.flops_per_token == pytest.approx(6 * products, rel=0.02)


@pytest.fixture
def trained(tmp_path, monkeypatch, capsys):
    del capsys  # so that a test can read what the run says
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert main(["fit", *RUN]) == 0
    return str(next(Path("runs").rglob("last.ckpt")))


def test_a_run_shows_what_happens_inside_it(trained, capsys):
    folder = Path(trained).parents[1]
    said = capsys.readouterr().err
    assert "python -m llm fill --ckpt" in said
    assert "[MASK]" in said
    assert "every position sees the very token" not in said
    assert "no " not in "".join(line for line in said.splitlines() if "in this run" in line)
    assert "| head / dense | (B, T, C) | 2x16x8 |" in (folder / "shapes.md").read_text()
    events = EventAccumulator(str(folder), {"images": 0, "tensors": 0, "scalars": 0, "histograms": 0}).Reload()
    tags = events.Tags()
    assert {"within attention/layer 0", "within attention/rollout", "within embeddings/positions"} <= set(
        tags["images"]
    )
    assert {"train/loss", "validation/loss", "validation/token_accuracy"} <= set(tags["scalars"])
    within = {"heads/entropy/layer 0", "gradients/norm/block 0", "gradients/norm/head"}
    assert {f"within {name}" for name in within} <= set(tags["scalars"])
    assert "validation/bits_per_byte" not in tags["scalars"]
    assert "within weights/head" in tags["histograms"]
    assert {f"{name}/text_summary" for name in ("2 shapes", "5 logit lens", "3 configuration", "4 preflight")} <= set(
        tags["tensors"]
    )
    page = (folder / "attention.html").read_text(encoding="utf-8")
    assert '"causal":false' in page
    assert "some tokens are masked as in training" in page
    assert "[MASK]" in page
    assert (folder / "attention.gif").stat().st_size > 0


def test_its_checkpoint_is_enough_to_use_it(trained):
    module = MaskedLanguageModel.load_from_checkpoint(trained)
    model, tokenizer = llm.load(trained)
    assert isinstance(model, Encoder)
    assert model.config == module.encoder.config == EncoderConfig(**module.encoder.config.to_dict())
    assert MASK in tokenizer.special_ids
    ids = torch.tensor([tokenizer.encode("It w[MASK]s")])
    assert torch.equal(model(ids), module.eval()(ids))
    assert inspect(trained, "It w[MASK]s").maps[0].shape == (2, 6, 6)
    with pytest.raises(CheckpointError, match="a checkpoint of the task 'masked', not 'language'"):
        LanguageModel.load_from_checkpoint(trained)
    with pytest.raises(CheckpointError, match="a checkpoint of the task 'masked', not of a language model"):
        LanguageModel(pretrained=trained)


def test_validate_and_test_need_the_checkpoint_alone(trained, capsys):
    for command in ("validate", "test"):
        assert main([command, "--ckpt_path", trained, "--trainer.limit_val_batches=1"]) == 0
        output = capsys.readouterr().out
        assert "token_accuracy" in output
        assert "bits_per_byte" not in output


def test_predict_is_refused_in_a_line(trained, capsys):
    capsys.readouterr()
    assert main(["predict", "--ckpt_path", trained]) == 1
    assert capsys.readouterr().err == "error: predict does nothing with the task masked: use python -m llm fill\n"


def test_a_run_goes_on_from_its_checkpoint(trained):
    assert main(["fit", *RUN, "--ckpt_path=last", "--trainer.max_steps=5"]) == 0
    assert torch.load(trained, weights_only=True)["global_step"] == 5


# From weights of BERT


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A folder of a tiny random BERT with its vocabulary."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "on", "mat", "dog", ".", ",", "##s"]
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=20, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "corpus.txt").write_text("The cats sat on the mat, the dog sat on the cat. " * 20)
    return folder


def test_a_window_stands_between_the_tokens_that_bert_expects_around_a_text(bert, tmp_path):
    tokenizer = TokenizerConfig(checkpoint=str(bert))
    options = {"corpus": str(bert / "corpus.txt"), "cache_dir": str(tmp_path / "cache"), "batch_size": 4}
    data = MaskedDataModule(tokenizer=tokenizer, context_length=12, **options)
    assert (data.window_length, data.stride, data.vocab_size) == (10, 10, 14)
    cls_id, sep_id = data.tokenizer.encode_whole("")
    seen = []
    for batch in data.train_dataloader():
        assert batch.inputs.shape == batch.targets.shape == (4, 12)
        assert (batch.inputs[:, 0] == cls_id).all()
        assert (batch.inputs[:, -1] == sep_id).all()
        assert (batch.targets[:, [0, -1]] == IGNORED).all()
        assert ((batch.targets != IGNORED).sum(1) > 0).all()
        seen += torch.where(batch.targets == IGNORED, batch.inputs, batch.targets)[:, 1:-1].tolist()
    tokens = data.train_tokens.tolist()
    starts = [max(1, start) for start in range(0, len(tokens), 10)]  # behind the [CLS] that begins the corpus
    assert tokens[0] == cls_id
    assert all(any(row == tokens[start : start + 10] for start in starts) for row in seen)
    sample = data.sample_ids(8)
    assert (len(sample), sample[0], sample[-1]) == (8, cls_id, sep_id)
    with pytest.raises(ConfigError, match="no room for a text: the tokenizer puts 2 tokens around it"):
        MaskedDataModule(tokenizer=tokenizer, context_length=2, **options)


def fit_from(source, corpus, *words):
    run = ["fit", "--task=masked", f"--model.pretrained={source}", f"--data.corpus={corpus}", "--data.batch_size=4"]
    return main([*run, "--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--inspect.every=0", *words])


def test_a_run_begins_with_bert_and_another_with_its_checkpoint(bert, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    corpus = bert / "corpus.txt"
    assert fit_from(bert, corpus, "--data.context_length=12", "--model.lora.rank=2", "--name=lora") == 0
    checkpoint = str(next(Path("runs").rglob("lora/**/last.ckpt")))
    adapted, tokenizer = llm.load(checkpoint)
    base = llm.load(bert).model
    assert tokenizer.encode_whole("the cats") == [2, 5, 6, 13, 3]
    assert torch.equal(adapted.head.dense.weight, base.head.dense.weight), "frozen"
    assert not torch.equal(adapted.blocks[0].attention.qkv.weight, base.blocks[0].attention.qkv.weight)
    assert adapted.config.context_length == 12
    assert fit_from(checkpoint, corpus, "--model.train=head", "--name=head") == 0
    trained = llm.load(next(Path("runs").rglob("head/**/last.ckpt"))).model
    assert torch.equal(trained.blocks[0].attention.qkv.weight, adapted.blocks[0].attention.qkv.weight)
    assert not torch.equal(trained.head.dense.weight, adapted.head.dense.weight)


def test_a_run_can_not_begin_with_a_gpt(tmp_path):
    path = tmp_path / "gpt.ckpt"
    config = GPTConfig(9, 8, n_layer=1, n_head=2, n_embd=8)
    torch.save(checkpoint_of(config, build_network(config).state_dict(), None), path)
    with pytest.raises(CheckpointError, match="a checkpoint of the task 'language', not of the task 'masked'"):
        MaskedLanguageModel(pretrained=str(path))


@pytest.mark.parametrize("words", [["generate", "--prompt=a"], ["evaluate", "--data.corpus=story"], ["trace"]])
def test_commands_for_language_models_refuse_it_in_a_line(trained, words, capsys):
    from llm.__main__ import main as command

    capsys.readouterr()
    assert command([*words, "--ckpt", trained]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "of the task 'masked'" in line


def test_a_folder_for_transformers_is_refused_where_the_architecture_is_not_berts(trained, capsys):
    from llm.__main__ import main as command

    capsys.readouterr()
    assert command(["export", "--out=x", "--ckpt", trained]) == 1
    assert "error: BERT's format has no place for this architecture: norm_first is True" in capsys.readouterr().err
    assert not Path("x").exists()
