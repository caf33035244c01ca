"""How many optimizer steps a run makes, and after how many batches."""

import lightning as L
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from llm.config import GPTConfig, OptimConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.tasks import LanguageModel
from llm.training.schedule import batches_until, steps_of_run

ACCUMULATIONS = st.integers(1, 9) | st.dictionaries(st.integers(0, 6), st.integers(1, 9), min_size=1)


def made(epochs, batches, accumulation):
    """Batches up to each step, made one by one."""
    taken = 0
    for epoch in range(epochs):
        if isinstance(accumulation, int):
            accumulated = accumulation
        else:
            accumulated = max(((first, n) for first, n in accumulation.items() if first <= epoch), default=(0, 1))[1]
        for first in range(0, batches, accumulated):
            taken += min(accumulated, batches - first)
            yield taken


@given(epochs=st.integers(0, 12), batches=st.integers(1, 20), accumulation=ACCUMULATIONS)
def test_steps_and_batches_are_those_of_a_loop_over_epochs(epochs, batches, accumulation):
    expected = list(made(epochs, batches, accumulation))
    assert steps_of_run(-1, epochs, batches, None, accumulation) == len(expected)
    assert [batches_until(step + 1, batches, accumulation) for step in range(len(expected))] == expected
    assert batches_until(0, batches, accumulation) == 0


def test_the_lower_limit_ends_a_run():
    assert steps_of_run(-1, None, 10, None, 4) is None
    assert steps_of_run(5, None, 10, None, {0: 2}) == 5
    assert steps_of_run(5, 2, 10, None, {0: 2, 1: 10}) == 5
    assert steps_of_run(50, 2, 10, None, {0: 2, 1: 10}) == 6
    assert steps_of_run(50, 2, 10, 0.5, {0: 2, 1: 10}) == 4


@pytest.mark.parametrize("schedule", [{0: 1, 1: 3, 3: 8}, {2: 4}])
def test_a_schedule_of_accumulation_ends_at_the_final_learning_rate(schedule, corpus, tmp_path):
    data = TextDataModule(
        str(corpus), TokenizerConfig("char"), context_length=8, batch_size=32, cache_dir=str(tmp_path / "cache")
    )
    gpt = GPTConfig(data.vocab_size, 8, n_layer=1, n_head=2, n_embd=8)
    optim = OptimConfig(learning_rate=1e-3, warmup_steps=2, final_learning_rate_ratio=0.1)
    module = LanguageModel(gpt, optim)
    trainer = L.Trainer(
        max_epochs=4,
        limit_val_batches=0,
        use_distributed_sampler=False,
        callbacks=[GradientAccumulationScheduler(schedule)],
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module, data)
    expected = sum(1 for _ in made(4, len(data.train_dataloader()), schedule))
    assert module.total_steps == trainer.global_step == expected
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(1e-4)
