"""A NaN or infinite loss or gradient never reaches the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path

import lightning as L
import pytest
import torch
from tiny_runs import KeepEvery
from torch.utils.data import DataLoader

from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.data.batch import IGNORED, TokenBatch
from llm.errors import CheckpointError, TrainingError
from llm.pretrained.checkpoint import read_checkpoint
from llm.runs.checkpointing import AtomicCheckpointIO, BestAndLast
from llm.tasks import LanguageModel
from llm.training.non_finite import MOST_IN_A_ROW

STEPS = 9
TEXT = "the cat sat on the mat, and the dog sat by the door; " * 6
MUON = {"kind": "muon"}


class Poison(L.Callback):
    """Makes some batches of a run, by their number, give a NaN or infinite loss or gradient."""

    def __init__(self, batches, where: str, value: float = math.nan) -> None:
        self.batches, self.where, self.value = set(batches), where, value

    def setup(self, trainer, pl_module, stage):
        self.handle = pl_module.gpt.embeddings.register_forward_hook(self.spoil)
        self.trainer, self.module = trainer, pl_module

    def spoil(self, module, args, output):
        here = self.trainer.fit_loop.total_batch_idx in self.batches
        return output * self.value if self.where == "loss" and here and self.module.training else output

    def on_after_backward(self, trainer, pl_module):
        if self.where == "gradient" and trainer.fit_loop.total_batch_idx in self.batches:
            pl_module.gpt.final_norm.weight.grad[0] = self.value


def prepare(folder: Path, action: str, optim=None, **options):
    (folder / "corpus.txt").write_text(TEXT)
    datamodule = TextDataModule(
        str(folder / "corpus.txt"),
        TokenizerConfig("char"),
        context_length=8,
        batch_size=6,
        validation_fraction=0.2,
        cache_dir=str(folder / "cache"),
    )
    torch.manual_seed(1)
    config = GPTConfig(datamodule.vocab_size, 8, n_layer=1, n_head=2, n_embd=8, dropout=0.3)
    module = LanguageModel(config, OptimConfig(warmup_steps=3, **(optim or {})), non_finite=action)
    options["callbacks"] = [*options.get("callbacks", []), options.pop("checkpoint", None) or BestAndLast(every=1)]
    trainer = L.Trainer(
        logger=False,
        default_root_dir=folder,
        plugins=[AtomicCheckpointIO()],
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        **{
            "accelerator": "cpu",
            "max_steps": STEPS,
            "gradient_clip_val": 1.0,
            "val_check_interval": 3,
            "log_every_n_steps": 1,
            **options,
        },
    )
    return trainer, module, datamodule


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": None},
        {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"optim": MUON},
    ],
    ids=str,
)
def test_a_run_stops_before_the_step_with_the_weights_of_the_step_before(tmp_path, where, options):
    trainer, module, datamodule = prepare(tmp_path, "stop", callbacks=[Poison([4], where)], **options)
    with pytest.raises(TrainingError, match=r"step 4: the (loss|gradient norm) is nan, in batch 4 of epoch 0"):
        trainer.fit(module, datamodule)
    assert all(parameter.isfinite().all() for parameter in module.parameters())
    saved = read_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    assert saved["global_step"] == 4
    assert all(torch.equal(saved["state_dict"][name], value) for name, value in module.state_dict().items())


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinity_is_no_number_either(tmp_path, value):
    trainer, module, datamodule = prepare(tmp_path, "stop", callbacks=[Poison([1], "gradient", value)])
    with pytest.raises(TrainingError, match="step 1: the gradient norm is inf"):
        trainer.fit(module, datamodule)


def test_a_loss_alone_is_enough(tmp_path):
    class Infinite(LanguageModel):
        """Whose loss is infinite although its gradients are not."""

        def loss_of(self, *words):
            prediction = super().loss_of(*words)
            return prediction._replace(loss=prediction.loss + math.inf)

    trainer, module, datamodule = prepare(tmp_path, "stop")
    trainer_module = Infinite(module.gpt.config)
    with pytest.raises(TrainingError, match="step 0: the loss is inf"):
        trainer.fit(trainer_module, datamodule)


def test_the_batch_is_named_and_kept(tmp_path):
    seen = {}

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen[trainer.fit_loop.total_batch_idx] = (trainer.current_epoch, batch_idx, batch)

    trainer, module, datamodule = prepare(tmp_path, "stop", callbacks=[Watch(), Poison([7], "loss")])
    with pytest.raises(TrainingError, match="its token ids and text are in") as error:
        trainer.fit(module, datamodule)
    epoch, number, (inputs, targets, *_) = seen[7]
    assert epoch == 1, "the order of the windows is not that of the first epoch"
    assert f"batch {number} of epoch 1 (windows that begin at token " in str(error.value)
    kept = json.loads((tmp_path / "non_finite" / "step-7-process-0.json").read_text())
    (batch,) = kept["batches"]
    assert (batch["epoch"], batch["batch"], batch["loss"]) == (epoch, number, "nan")
    tokens = datamodule.train_tokens.tolist()
    for window, row, target in zip(batch["windows"], inputs.tolist(), targets.tolist(), strict=True):
        start = window["begins_at_token"]
        assert window["ids"] == [*row, target[-1]] == tokens[start : start + 9]
        assert window["text"] == datamodule.tokenizer.decode(window["ids"])
    assert "network.final_norm.weight" in kept["non_finite_gradients"]


def test_of_a_run_that_overfits_the_windows_it_saw_are_named(tmp_path):
    seen = {}

    class Watch(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen[trainer.fit_loop.total_batch_idx] = batch

    options = {"overfit_batches": 2, "val_check_interval": 2, "callbacks": [Watch(), Poison([7], "loss")]}
    trainer, module, datamodule = prepare(tmp_path, "stop", **options)
    with pytest.raises(TrainingError, match="in batch 1 of epoch 0"):
        trainer.fit(module, datamodule)
    (batch,) = json.loads((tmp_path / "non_finite" / "step-7-process-0.json").read_text())["batches"]
    tokens = datamodule.train_tokens.tolist()
    for window, row in zip(batch["windows"], seen[7].inputs.tolist(), strict=True):
        assert window["ids"][:-1] == row
        assert tokens[window["begins_at_token"] :][:9] == window["ids"]


def test_targets_that_are_not_the_next_tokens_are_kept_beside_the_ids(tmp_path):
    batches = [
        TokenBatch(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[IGNORED, 3, IGNORED, IGNORED]])),  # as masked
        TokenBatch(torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([[2, 3, 0], [5, 0, 0]]), torch.tensor([3, 1])),
        TokenBatch(torch.tensor([[1, 2], [2, 3]]), torch.tensor([[2, 3], [3, IGNORED]])),
    ]
    options = {"max_steps": 1, "accumulate_grad_batches": 3, "limit_val_batches": 0, "val_check_interval": None}
    trainer, module, datamodule = prepare(tmp_path, "stop", callbacks=[Poison(range(3), "loss")], **options)
    datamodule.train_dataloader = lambda: DataLoader(batches, batch_size=None)
    with pytest.raises(TrainingError, match="step 0: the loss is nan"):
        trainer.fit(module, datamodule)
    kept = json.loads((tmp_path / "non_finite" / "step-0-process-0.json").read_text())["batches"]
    found = [[(window["ids"], window["targets"]) for window in batch["windows"]] for batch in kept]
    assert found == [
        [([1, 2, 3, 4], [IGNORED, 3, IGNORED, IGNORED])],
        [([1, 2, 3], [2, 3, 0]), ([4], [5])],
        [([1, 2], [2, 3]), ([2, 3], [3, IGNORED])],
    ]
    for window in kept[0]["windows"]:
        assert window["text"] == datamodule.tokenizer.decode(window["ids"])


def test_of_accumulated_batches_the_one_at_fault_is_named(tmp_path):
    options = {"accumulate_grad_batches": 3, "val_check_interval": 6}
    trainer, module, datamodule = prepare(tmp_path, "stop", callbacks=[Poison([1], "loss")], **options)
    with pytest.raises(TrainingError, match="step 0: the loss is nan, in batch 1 of epoch 0") as error:
        trainer.fit(module, datamodule)
    assert "batch 0" not in str(error.value)
    assert "batch 2" not in str(error.value)
    kept = json.loads((tmp_path / "non_finite" / "step-0-process-0.json").read_text())
    assert [batch["batch"] for batch in kept["batches"]] == [1]


@pytest.mark.parametrize("options", [{}, {"optim": MUON}, {"precision": "bf16-mixed"}], ids=str)
def test_a_step_that_is_left_out_moves_nothing(tmp_path, options):
    before, after = {}, {}

    class Watch(L.Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            before[trainer.global_step] = state(pl_module, optimizer)

        def on_train_batch_end(self, trainer, pl_module, *args):
            after[trainer.global_step - 1] = state(pl_module, trainer.optimizers[0])

    def state(module, optimizer):
        tensors = [p.detach().clone() for p in module.parameters()]
        return tensors + [v.clone() for s in optimizer.state.values() for v in s.values() if torch.is_tensor(v)]

    trainer, module, datamodule = prepare(tmp_path, "skip", callbacks=[Watch(), Poison([3, 5], "loss")], **options)
    trainer.fit(module, datamodule)
    assert trainer.global_step == STEPS
    moved = [
        step
        for step in before
        if not all(map(torch.equal, before[step], after[step])) or len(before[step]) != len(after[step])
    ]
    assert moved == [step for step in range(STEPS) if step not in (3, 5)]
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 2
    assert sorted(file.name for file in (tmp_path / "non_finite").iterdir()) == [
        "step-3-process-0.json",
        "step-5-process-0.json",
    ]


@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2, "val_check_interval": 2}], ids=str)
def test_a_run_that_left_out_steps_resumes_exactly(tmp_path, options):
    def fit(ckpt=None, checkpoint=None):
        poison = Poison([2, 5, 8], "gradient")
        trainer, module, datamodule = prepare(tmp_path, "skip", callbacks=[poison], checkpoint=checkpoint, **options)
        trainer.fit(module, datamodule, ckpt_path=ckpt, weights_only=True)
        assert trainer.global_step == STEPS
        return module

    whole = fit(checkpoint=KeepEvery(every=1))
    assert whole.gradient.guard.skipped == 3
    checkpoints = sorted((tmp_path / "checkpoints").glob("step*.ckpt"))
    assert len(checkpoints) >= STEPS - 1
    for checkpoint in checkpoints:
        if checkpoint.name != f"step{STEPS}.ckpt":
            resumed = fit(checkpoint)
            assert resumed.gradient.guard.state() == whole.gradient.guard.state(), checkpoint.name
            assert all(torch.equal(v, resumed.state_dict()[name]) for name, v in whole.state_dict().items())


def test_a_run_in_which_every_step_is_left_out_ends(tmp_path):
    trainer, module, datamodule = prepare(
        tmp_path, "skip", callbacks=[Poison(range(100), "loss")], max_steps=100, val_check_interval=5
    )
    with pytest.raises(TrainingError, match=f"{MOST_IN_A_ROW} steps in a row skipped"):
        trainer.fit(module, datamodule)
    assert all(parameter.isfinite().all() for parameter in module.parameters())


def test_a_file_that_cannot_be_written_hides_nothing(tmp_path):
    (tmp_path / "non_finite").write_text("in the way")
    trainer, module, datamodule = prepare(tmp_path, "stop", callbacks=[Poison([1], "loss")])
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan.*could not be written"):
        trainer.fit(module, datamodule)


def test_a_count_that_is_damaged_is_refused():
    module = LanguageModel(GPTConfig(vocab_size=5, context_length=4, n_layer=1, n_head=1, n_embd=4))
    for state in ("x", [1], [1, "2"], {}):
        with pytest.raises(CheckpointError, match="skipped_steps"):
            module.gradient.guard.restore(state)
