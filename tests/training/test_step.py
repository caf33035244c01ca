"""A step's gradient is that of the sum over supervised tokens, divided once by how many there are."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import lightning as L
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset

from llm.config import GPTConfig, LoRAConfig, OptimConfig
from llm.data.batch import IGNORED, TokenBatch
from llm.errors import TrainingError
from llm.model import GPT
from llm.model.trained import Trained, trained_network
from llm.tasks import LanguageModel
from llm.training.non_finite import MOST_OVERFLOWS, NonFiniteGuard

CONFIG = GPTConfig(vocab_size=17, context_length=8, n_layer=2, n_head=2, n_embd=16, dropout=0.0)
OPTIM = OptimConfig(learning_rate=1e-3, warmup_steps=0)
WITHOUT = LoRAConfig()
EXACT = {"atol": 1e-6, "rtol": 1e-5}


def rows(n_rows, fractions=(1.0,), seed=0):
    """Rows of inputs and targets, of whose tokens those fractions are supervised, in turn."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(CONFIG.vocab_size, (n_rows, 9), generator=generator)
    targets = ids[:, 1:].clone()
    for row, fraction in zip(targets, itertools.cycle(fractions), strict=False):
        row[torch.rand(8, generator=generator) >= fraction] = IGNORED
    return TokenBatch(ids[:, :-1], targets)


def batches(data, *sizes):
    """A loader that gives so many rows at a time."""
    parts = zip(data.inputs.split(sizes), data.targets.split(sizes), strict=True)
    return DataLoader([TokenBatch(*part) for part in parts], batch_size=None)


def fit(loader, lora=WITHOUT, **options):
    """The module after a run."""
    torch.manual_seed(0)
    module = LanguageModel(CONFIG, OPTIM, lora=lora)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = L.Trainer(
        accelerator="cpu", limit_val_batches=0, log_every_n_steps=1, **{"max_steps": 1, **quiet, **options}
    )
    trainer.fit(module, loader)
    return module


def expected(data, network=None):
    """The mean loss over all supervised tokens, and its gradients."""
    if network is None:
        torch.manual_seed(0)
        network = GPT(CONFIG)
    network.zero_grad()
    loss = F.cross_entropy(network(data.inputs).flatten(0, 1), data.targets.flatten())
    loss.backward()
    return float(loss), {name: parameter.grad for name, parameter in network.named_parameters()}


def check(module, data, network=None):
    loss, gradients = expected(data, network)
    for name, parameter in module.network.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[name], **EXACT)
    metrics = module.trainer.callback_metrics
    assert float(metrics["train/loss"]) == pytest.approx(loss, rel=1e-5)
    norm = torch.nn.utils.get_total_norm([gradient for gradient in gradients.values() if gradient is not None])
    assert float(metrics["train/step/gradient_norm"]) == pytest.approx(float(norm), rel=1e-5)


def test_accumulated_micro_batches_are_one_batch():
    data = rows(8)
    check(fit(batches(data, 2, 2, 2, 2), accumulate_grad_batches=4), data)
    check(fit(batches(data, 8)), data)


def test_a_group_that_a_limit_cuts_short():
    data = rows(4)
    module = fit(batches(data, 2, 2), accumulate_grad_batches=10, limit_train_batches=1)
    check(module, TokenBatch(data.inputs[:2], data.targets[:2]))


def test_a_group_that_the_epochs_end_cuts_short():
    data = rows(10)
    module = fit(batches(data, 2, 2, 2, 2, 2), accumulate_grad_batches=5, max_epochs=1, max_steps=-1)
    whole = fit(batches(data, 2, 2, 2, 2, 2), accumulate_grad_batches=7, max_epochs=1, max_steps=-1)
    check(module, data)
    check(whole, data)


def test_a_last_batch_that_is_not_full():
    data = rows(7)
    check(fit(batches(data, 3, 3, 1), accumulate_grad_batches=3), data)


def test_micro_batches_with_unequal_numbers_of_supervised_tokens():
    data = rows(8, fractions=(1.0, 0.2, 0.6))
    check(fit(batches(data, 2, 2, 2, 2), accumulate_grad_batches=4), data)


def test_adapters_get_the_gradient_of_the_sum_too():
    data, lora = rows(8, fractions=(1.0, 0.2, 0.6)), LoRAConfig(rank=2)
    torch.manual_seed(0)
    network = trained_network(CONFIG, Trained(lora=lora))
    check(fit(batches(data, 2, 2, 2, 2), lora, accumulate_grad_batches=4), data, network)


def test_a_micro_batch_with_nothing_supervised_adds_nothing_and_is_counted():
    data = rows(4, fractions=(1.0, 0.0))
    module = fit(batches(data, 1, 1, 1, 1), accumulate_grad_batches=4)
    check(module, data)
    assert float(module.trainer.callback_metrics["train/batches_without_targets"]) == 2


def test_a_step_with_nothing_supervised_changes_no_weight():
    module = fit(batches(rows(2, fractions=(0.0,)), 2))
    torch.manual_seed(0)
    for name, value in GPT(CONFIG).state_dict().items():
        assert torch.equal(module.network.state_dict()[name], value)
    assert module.gradient.unsupervised_batches == 1


def test_clipping_is_of_the_divided_gradient():
    data = rows(4, fractions=(0.5,))
    norm = torch.nn.utils.get_total_norm(expected(data)[1].values())
    module = fit(batches(data, 2, 2), accumulate_grad_batches=2, gradient_clip_val=float(norm) / 2)
    for name, gradient in expected(data)[1].items():
        torch.testing.assert_close(module.network.get_parameter(name).grad, gradient / 2, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_in_16_bits_too(precision):
    data = rows(8, fractions=(1.0, 0.3))
    module = fit(batches(data, 2, 2, 2, 2), accumulate_grad_batches=4, precision=precision)
    loss, gradients = expected(data)
    assert float(module.trainer.callback_metrics["train/loss"]) == pytest.approx(loss, rel=1e-2)
    ours = torch.cat([module.network.get_parameter(name).grad.float().flatten() for name in gradients])
    theirs = torch.cat([gradient.flatten() for gradient in gradients.values()])
    assert (ours - theirs).norm() < 0.05 * theirs.norm()


TWO_PROCESSES = """
import sys
sys.path[:0] = [{tests!r}]
from test_step import *

class ByRank:
    def __init__(self, data):
        self.data = data
    def __len__(self):
        return 2
    def __iter__(self):
        rank = torch.distributed.get_rank()
        for part in range(2):
            start = 4 * rank + 2 * part
            yield TokenBatch(self.data.inputs[start : start + 2], self.data.targets[start : start + 2])

if __name__ == "__main__":
    data = rows(8, fractions=(1.0, 1.0, 0.5, 0.1, 0.3, 0.0, 0.0, 0.0))
    options = dict(accumulate_grad_batches=2, strategy="ddp", devices=2, use_distributed_sampler=False)
    check(fit(ByRank(data), **options), data)
    print("equal", flush=True)
"""


def test_two_processes_with_unequal_numbers_are_one_batch(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES.format(tests=str(Path(__file__).parent)))
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("equal") == 2


def test_how_much_of_a_batch_is_padding_is_logged():
    data = rows(4)
    lengths = torch.tensor([8, 4, 2, 2])
    targets = data.targets.masked_fill(torch.arange(8) >= lengths[:, None], IGNORED)
    module = fit(DataLoader([TokenBatch(data.inputs, targets, lengths)], batch_size=None))
    assert float(module.trainer.callback_metrics["train/padding_fraction"]) == 0.5


def test_padding_changes_nothing_for_an_attention_that_sees_all():
    torch.manual_seed(0)
    module = LanguageModel(GPTConfig(**{**CONFIG.to_dict(), "causal": False}), OPTIM)
    ids = rows(2).inputs
    lengths = torch.tensor([8, 5])
    batch = module.hidden_states(TokenBatch(ids, ids, lengths))
    torch.testing.assert_close(batch[1, :5], module.hidden_states(TokenBatch(ids[1:, :5], ids[1:, :5]))[0])


class Stream(IterableDataset):
    def __iter__(self):
        yield from (TokenBatch(*(part[:2] for part in rows(2, seed=seed)[:2])) for seed in itertools.count())


def test_a_stream_without_an_end_has_the_steps_that_are_asked_for():
    loader = DataLoader(Stream(), batch_size=None)
    module = fit(loader, max_steps=3, max_epochs=2)
    assert module.total_steps == 3
    assert fit(loader, max_steps=-1, max_epochs=1, limit_train_batches=2).total_steps == 2


def test_a_schedule_of_accumulation_is_planned_without_a_data_module():
    scheduler = L.pytorch.callbacks.GradientAccumulationScheduler({0: 4, 1: 2})
    module = fit(batches(rows(8), *[1] * 8), max_steps=-1, max_epochs=2, callbacks=[scheduler])
    assert module.total_steps == module.trainer.global_step == 6


def test_a_loss_scaler_that_no_scale_helps_ends_the_run():
    guard = NonFiniteGuard("stop")
    for _ in range(MOST_OVERFLOWS - 1):
        guard.note_overflow(True)
    guard.note_overflow(False)
    for _ in range(MOST_OVERFLOWS - 1):
        guard.note_overflow(True)
    with pytest.raises(TrainingError, match="whatever the loss scale"):
        guard.note_overflow(True)
