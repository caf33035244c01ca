"""What the model writes while it learns, and that it never ends a run."""

import logging

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from llm.config import GPTConfig, OptimConfig, SamplingConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.errors import ConfigError
from llm.generation import continue_texts
from llm.inspection import TextSamples
from llm.runs.checkpointing import BestAndLast
from llm.tasks import LanguageModel


@pytest.fixture
def train(tmp_path, corpus):
    """Trains a tiny model for four steps, and gives it, its data and the texts by step."""

    def fit(samples, poison=None, max_new_tokens=5):
        data = TextDataModule(
            str(corpus), TokenizerConfig("char", specials=()), context_length=8, cache_dir=str(tmp_path / "cache")
        )
        gpt = GPTConfig(data.vocab_size, 8, n_layer=1, n_head=1, n_embd=8)
        module = LanguageModel(gpt, OptimConfig(warmup_steps=2), SamplingConfig(max_new_tokens=max_new_tokens))
        logger = TensorBoardLogger(str(tmp_path), name="run", default_hp_metric=False)
        trainer = L.Trainer(
            accelerator="cpu",
            logger=logger,
            max_steps=4,
            callbacks=[samples, *([poison] if poison else [])],
            limit_val_batches=0,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
        events = EventAccumulator(logger.log_dir, {"tensors": 0}).Reload()
        tag = "1 samples/text_summary"
        found = events.Tensors(tag) if tag in events.Tags()["tensors"] else []
        return module, data, {event.step: event.tensor_proto.string_val[0].decode() for event in found}

    return fit


def test_the_last_text_is_what_the_trained_model_says(train):
    module, data, texts = train(TextSamples(["The cat", "sat"], every=2))
    assert sorted(texts) == [0, 2, 4]
    prompts = [torch.tensor(data.tokenizer.encode(prompt)) for prompt in ("The cat", "sat")]
    for prompt, found in zip(
        ("The cat", "sat"), continue_texts(module.gpt, data.tokenizer, prompts, module.sampling), strict=True
    ):
        assert all(f"    {line}" in texts[4] for line in f"{prompt}{found.text}".splitlines())


def test_texts_before_the_last_step_end_with_the_context(train, caplog):
    with caplog.at_level(logging.INFO, logger="llm"):
        module, _, texts = train(TextSamples(["The"], every=2), max_new_tokens=60)  # the context has 8 tokens
    written = {step: "".join(text.split("\n\n", 1)[1].split()) for step, text in texts.items()}
    assert all(len(written[step]) <= 8 < len(written[4]) for step in (0, 2))
    assert ["the context" in text for text in texts.values()] == [True, True, False]
    (printed,) = (record.getMessage() for record in caplog.records if "sample: " in record.getMessage())
    assert "".join(printed.split("sample: ")[1].split()) == written[4]
    assert module.gpt.training


def test_a_text_that_can_not_be_continued_is_a_warning(train, caplog):
    class Overflow(L.Callback):
        """NaN logits, outside of the steps alone."""

        def on_train_batch_end(self, trainer, pl_module, *args):
            pl_module.sampling = SamplingConfig(temperature=1e-45, max_new_tokens=5)

    with caplog.at_level(logging.WARNING, logger="llm"):
        _, _, texts = train(TextSamples(["The cat"], every=4), Overflow())
    assert sorted(texts) == [0]
    assert "no sample for the prompt 'The cat': the model's logits are NaN or infinite" in caplog.text


def test_a_number_of_steps_that_can_not_be():
    with pytest.raises(ConfigError, match="every must be at least 0 steps, got -1"):
        TextSamples(every=-1)
    with pytest.raises(ConfigError, match=r"checkpoint\.every must be at least 0 steps, got -1"):
        BestAndLast(every=-1)
