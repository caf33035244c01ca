import lightning as L
import pytest
import torch

from llm.config import GPTConfig
from llm.data.batch import TokenBatch
from llm.runtime.compiling import Compiled
from llm.tasks import LanguageModel


def broken(function):
    def call(x):
        raise RuntimeError("no working compiler was found\nmore of it")

    return call


def test_where_it_cannot_be_compiled_a_line_says_why_and_the_result_is_the_same(monkeypatch, caplog):
    monkeypatch.setattr(torch, "compile", broken)
    twice = Compiled(lambda x: 2 * x)
    assert [twice(torch.ones(1)).item() for _ in range(2)] == [2, 2]
    assert not twice.is_compiled
    assert caplog.messages == ["compile:     failed, continuing in eager mode: no working compiler was found"]


def test_an_error_of_the_functions_own_is_not_hidden(monkeypatch):
    monkeypatch.setattr(torch, "compile", broken)

    def wrong(x):
        raise ValueError("its own")

    with pytest.raises(ValueError, match="its own"):
        Compiled(wrong)(torch.ones(1))


def test_a_compiled_model_trains_as_the_plain_one(tiny):
    torch.compiler.reset()
    ids = torch.randint(tiny.vocab_size, (24, 9), generator=torch.Generator().manual_seed(0))
    loader = torch.utils.data.DataLoader([(row[:-1], row[1:]) for row in ids], batch_size=4)
    ended = []
    for compile in (False, True):
        torch.manual_seed(0)
        module = LanguageModel(tiny.__class__(**{**tiny.to_dict(), "dropout": 0.0}), compile=compile)
        trainer = L.Trainer(
            accelerator="cpu", max_steps=6, limit_val_batches=0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        trainer.fit(module, loader)
        ended.append(module.state_dict())
    assert [name for name in ("hidden_states", "cross_entropy") if module.is_compiled(name)] == ["hidden_states"]
    assert ended[0].keys() == ended[1].keys()
    for name, value in ended[0].items():
        torch.testing.assert_close(ended[1][name], value, atol=1e-4, rtol=1e-3)


def test_a_large_vocabulary_is_compiled_with_its_loss():
    torch.compiler.reset()
    config = GPTConfig(5000, 8, n_layer=1, n_head=2, n_embd=16, dropout=0.0)
    batch = torch.randint(5000, (4, 9), generator=torch.Generator().manual_seed(0))
    found = []
    for compile in (False, True):
        torch.manual_seed(0)
        module = LanguageModel(config, compile=compile)
        module.setup("fit")
        inputs = TokenBatch(batch[:, :-1], batch[:, 1:])
        loss = module.loss_of(module.hidden_states(inputs), inputs).loss
        loss.backward()
        found.append((loss.detach(), {name: parameter.grad for name, parameter in module.gpt.named_parameters()}))
    assert module.is_compiled("cross_entropy")
    torch.testing.assert_close(found[1], found[0])


def test_what_stands_in_for_a_function_that_can_not_be_compiled_is_used(monkeypatch):
    monkeypatch.setattr(torch, "compile", broken)
    twice = Compiled(lambda x, y: x + y, plain=lambda x, y: x - y)
    assert twice(torch.ones(1), torch.ones(1)).item() == 0
