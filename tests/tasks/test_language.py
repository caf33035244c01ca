import math

import lightning as L
import pytest
import tiny_runs
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.errors import TrainingError
from llm.tasks import LanguageModel

QUIET = {**tiny_runs.QUIET, "check_val_every_n_epoch": None}


@pytest.fixture
def datamodule(corpus, tmp_path):
    return TextDataModule(
        str(corpus), TokenizerConfig("char"), context_length=8, batch_size=4, cache_dir=str(tmp_path / "cache")
    )


@pytest.fixture
def module(datamodule):
    torch.manual_seed(0)
    config = GPTConfig(datamodule.vocab_size, 8, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
    return LanguageModel(config, OptimConfig(learning_rate=1e-2, warmup_steps=2))


def test_validation_metrics_are_means_over_all_tokens(module, datamodule):
    found = L.Trainer(**QUIET).validate(module, datamodule, verbose=False)[0]
    tokens = torch.from_numpy(datamodule.validation_tokens.astype("int64"))
    losses, hits = [], []
    for start in range(0, len(tokens) - 8, 8):
        window = tokens[start : start + 9]
        logits = module.gpt.eval()(window[None, :-1])[0]
        losses += F.cross_entropy(logits, window[1:], reduction="none").tolist()
        hits += (logits.argmax(-1) == window[1:]).tolist()
    loss = sum(losses) / len(losses)
    assert found["validation/loss"] == pytest.approx(loss, abs=1e-5)
    assert found["validation/perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
    assert found["validation/token_accuracy"] == pytest.approx(sum(hits) / len(hits), abs=1e-6)
    text = datamodule.tokenizer.decode(tokens.tolist())
    bits = loss / math.log(2) * len(tokens) / len(text.encode())
    assert found["validation/bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_documents_kept_apart_cost_what_each_costs_alone(tmp_path):
    """In one window of several documents, the loss is that of the documents one by one, to 1e-5."""
    texts = ["the cat sat on", "a mat", "and the dog by the door"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    T = sum(map(len, texts)) + len(texts) - 2  # the last token is a target alone
    losses = {}
    for apart in (True, False):
        options = {"validation_corpus": str(tmp_path), "separate_documents": apart, "batch_size": 1}
        cache = str(tmp_path / "cache")
        data = TextDataModule(str(tmp_path), TokenizerConfig("char"), context_length=T, cache_dir=cache, **options)
        torch.manual_seed(0)
        config = GPTConfig(data.vocab_size, T, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
        module = LanguageModel(config)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        losses[apart] = L.Trainer(**QUIET).validate(module, data, verbose=False)[0]["validation/loss"]
    end, encode = [data.tokenizer.end_of_text_id], data.tokenizer.encode
    rows = [[*encode(texts[0]), *end], [*end, *encode(texts[1]), *end], [*end, *encode(texts[2])]]
    total = 0.0
    for row in rows:
        logits = module.gpt.eval()(torch.tensor([row[:-1]]))[0]
        total += float(F.cross_entropy(logits, torch.tensor(row[1:]), reduction="sum"))
    assert losses[True] == pytest.approx(total / T, abs=1e-5)
    assert abs(losses[False] - total / T) > 1e-3


def test_training_lowers_the_loss_and_logs(module, datamodule):
    before = L.Trainer(**QUIET).validate(module, datamodule, verbose=False)[0]["validation/loss"]
    trainer = L.Trainer(max_steps=60, val_check_interval=60, gradient_clip_val=1.0, log_every_n_steps=1, **QUIET)
    trainer.fit(module, datamodule)
    assert float(trainer.callback_metrics["validation/loss"]) < before - 1
    expected = {
        "train/loss",
        "train/perplexity",
        "train/token_accuracy",
        "train/step/learning_rate",
        "train/step/gradient_norm",
    }
    assert expected <= set(trainer.callback_metrics)


@pytest.mark.parametrize("accumulated", [1, 3])
def test_the_logged_loss_is_that_of_the_whole_step(module, datamodule, accumulated, tmp_path):
    expected, logged = [], []

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            inputs, targets, *_ = batch
            with torch.no_grad():
                logits = pl_module.gpt(inputs)
            expected.append(float(F.cross_entropy(logits.flatten(0, 1), targets.flatten())))

    class Log(L.pytorch.loggers.CSVLogger):
        def log_metrics(self, metrics, step=None):
            if "train/loss" in metrics:
                logged.append((step, metrics["train/loss"], metrics["train/perplexity"]))

    options = {**QUIET, "logger": Log(tmp_path), "limit_val_batches": 0, "accumulate_grad_batches": accumulated}
    L.Trainer(max_steps=4, log_every_n_steps=2, callbacks=[Watch()], **options).fit(module, datamodule)
    means = torch.tensor(expected).view(4, accumulated).mean(dim=1).tolist()
    assert [step for step, *_ in logged] == [2, 4]
    assert [loss for _, loss, _ in logged] == pytest.approx([means[1], means[3]], abs=1e-5)
    assert [perplexity for *_, perplexity in logged] == pytest.approx(
        [math.exp(means[1]), math.exp(means[3])], rel=1e-4
    )


def test_a_validation_amid_a_step_counts_to_the_step_to_come(module, datamodule, tmp_path):
    logged = []

    class Log(L.pytorch.loggers.CSVLogger):
        def log_metrics(self, metrics, step=None):
            if "validation/loss" in metrics:
                logged.append(step)

    options = {**QUIET, "logger": Log(tmp_path), "num_sanity_val_steps": -1, "val_check_interval": 3, "max_steps": 4}
    trainer = L.Trainer(**options, accumulate_grad_batches=2)
    trainer.fit(module, datamodule)
    assert logged == [2, 3], "after batch 3, which is within step 2, and after batch 6, with which step 3 is made"


def test_muon_logs_both_learning_rates(datamodule):
    torch.manual_seed(0)
    config = GPTConfig(datamodule.vocab_size, 8, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
    optim = OptimConfig(kind="muon", learning_rate=1e-2, muon_learning_rate=0.04, warmup_steps=0, decay_fraction=0.0)
    module = LanguageModel(config, optim)
    before = L.Trainer(**QUIET).validate(module, datamodule, verbose=False)[0]["validation/loss"]
    trainer = L.Trainer(max_steps=60, val_check_interval=60, gradient_clip_val=1.0, log_every_n_steps=1, **QUIET)
    trainer.fit(module, datamodule)
    metrics = trainer.callback_metrics
    assert float(metrics["validation/loss"]) < before - 1
    assert float(metrics["train/step/muon_learning_rate"]) == pytest.approx(
        4 * float(metrics["train/step/learning_rate"])
    )


def test_gradients_are_clipped_to_the_norm(module, datamodule):
    norms = []

    class Watch(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            norms.append(float(trainer.callback_metrics["train/step/gradient_norm"]))

        def on_before_zero_grad(self, trainer, pl_module, optimizer):
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            if gradients:
                assert float(torch.nn.utils.get_total_norm(gradients)) <= 0.01 + 1e-6

    L.Trainer(max_steps=3, log_every_n_steps=1, gradient_clip_val=0.01, callbacks=[Watch()], **QUIET).fit(
        module, datamodule
    )
    assert len(norms) == 3
    assert min(norms) > 0.01, "the norm that is logged is the one before clipping"


def test_a_gradient_that_is_no_number_stops_the_run_with_whole_weights(module, datamodule, tmp_path):
    class Poison(L.Callback):
        def on_after_backward(self, trainer, pl_module):
            if trainer.global_step == 2:
                pl_module.gpt.final_norm.weight.grad[0] = float("nan")

    trainer = L.Trainer(max_steps=5, callbacks=[Poison()], default_root_dir=tmp_path, **QUIET)
    with pytest.raises(TrainingError, match="step 2: the gradient norm is nan"):
        trainer.fit(module, datamodule)
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_steps_of_a_run(module, datamodule):
    def steps(**options):
        trainer = L.Trainer(**{**QUIET, "check_val_every_n_epoch": 1, **options})
        trainer.fit(module, datamodule)
        return module.total_steps

    batches = len(datamodule.train_dataloader())
    assert batches > 8
    limits = {"limit_val_batches": 0}
    assert steps(max_steps=3, **limits) == 3
    assert steps(max_epochs=2, limit_train_batches=4, accumulate_grad_batches=3, **limits) == 4
    assert steps(max_epochs=1, max_steps=3, **limits) == 3
    assert steps(max_epochs=1, **limits) == batches


def test_it_trains_on_any_loader_of_token_ids(tiny):
    ids = torch.randint(tiny.vocab_size, (8, 9))
    loader = DataLoader([(row[:-1], row[1:]) for row in ids], batch_size=4)
    module = LanguageModel(tiny)
    before = module.gpt.head.weight.clone()
    trainer = L.Trainer(max_epochs=1, limit_val_batches=0, **QUIET)
    trainer.fit(module, loader)
    assert trainer.global_step == 2
    assert not torch.equal(module.gpt.head.weight, before)


@pytest.mark.parametrize("attention", ["dot", "self", "causal", "multi_head"])
def test_every_attention_trains(attention, datamodule):
    config = GPTConfig(datamodule.vocab_size, 8, n_layer=2, n_head=2, n_embd=8, attention=attention)
    trainer = L.Trainer(max_steps=2, limit_val_batches=1, log_every_n_steps=1, **QUIET)
    trainer.fit(LanguageModel(config), datamodule)
    assert torch.isfinite(trainer.callback_metrics["train/loss"])


def test_a_validation_loss_that_is_no_number_is_never_the_best(module, datamodule):
    with torch.no_grad():
        module.gpt.embeddings.token.weight[datamodule.validation_tokens[3]] = float("nan")
    found = L.Trainer(**QUIET).validate(module, datamodule, verbose=False)[0]
    assert found["validation/loss"] == math.inf


def test_a_model_in_16_bits_is_measured_over_all_batches(datamodule, tmp_path):
    """Sums in bfloat16 stop growing: of 256 batches at the latest."""
    corpus = tmp_path / "long.txt"
    corpus.write_text("the cat sat on the mat " * 300)
    data = TextDataModule(
        str(corpus),
        TokenizerConfig("char"),
        context_length=8,
        batch_size=1,
        evaluation_batch_size=1,
        validation_fraction=0.6,
        cache_dir=datamodule.cache_dir,
    )
    config = GPTConfig(data.vocab_size, 8, n_layer=1, n_head=1, n_embd=8, dropout=0.0)
    torch.manual_seed(0)
    found = L.Trainer(precision="bf16-true", **QUIET).validate(LanguageModel(config), data, verbose=False)[0]
    assert len(data.val_dataloader()) > 500
    assert found["validation/loss"] == pytest.approx(math.log(data.vocab_size), rel=0.02), "an untrained model guesses"
