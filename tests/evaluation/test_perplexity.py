"""Perplexity over sliding windows: every token once, whatever the batches, as a plain loop over the reference does."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from llm.config import GPTConfig, TokenizerConfig
from llm.data import TextDataModule
from llm.data.tokens.tokenize import Plan, tokenize
from llm.errors import ConfigError, DataError
from llm.evaluation.perplexity import Evaluation, evaluate_text, losses, sliding_windows
from llm.model import GPT
from llm.tokenizers import BPETokenizer, CharTokenizer, WordTokenizer

CONFIG = GPTConfig(vocab_size=61, context_length=16, n_layer=2, n_head=3, n_embd=12)


def make(config=CONFIG):
    torch.manual_seed(0)
    model = GPT(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def tokens(n, vocab_size=61):
    return np.random.default_rng(0).integers(vocab_size, size=n).astype("uint16")


def all_losses(*args, **options):
    found = list(losses(*args, **options))
    return np.concatenate([targets for targets, _ in found]), torch.cat([lost for _, lost in found])


# The windows


@given(n=st.integers(2, 200), T=st.integers(2, 40), data=st.data())
def test_every_token_but_the_first_is_judged_once(n, T, data):
    stride = data.draw(st.integers(1, T))
    windows = list(sliding_windows(n, T, stride))
    judged = [token for window in windows for token in range(window.scored, window.end)]
    unjudged = range(0, n, T) if stride == T else [0]  # side by side, the first of each window has nothing before it
    assert judged == [token for token in range(n) if token not in unjudged]
    assert all(0 < window.end - window.begin <= T for window in windows)
    if stride < T:  # every token after the first window has at least this much before it
        assert all(
            window.scored - window.begin >= T - stride for window in windows[1:] if window.end - window.begin == T
        )


# The reference


def plain_loop(model, ids, T, stride):
    """Hugging Face's guide: https://huggingface.co/docs/transformers/perplexity."""
    nats, count, seen = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + T, ids.shape[1])
        target_ids = ids[:, begin:end].clone()
        target_ids[:, : -(end - seen)] = -100
        with torch.no_grad():
            mean = model(ids[:, begin:end], labels=target_ids).loss
        judged = int((target_ids[:, 1:] != -100).sum())
        nats, count, seen = nats + float(mean) * judged, count + judged, end
        if end == ids.shape[1]:
            break
    return nats / count


@pytest.mark.parametrize("stride", [1, 5, 8, 15, 16])
@pytest.mark.parametrize("n", [10, 16, 100])
def test_the_perplexity_is_that_of_a_plain_loop_over_transformers(tmp_path, stride, n):
    transformers = pytest.importorskip("transformers")
    from llm.pretrained import Pretrained, export

    ours = make()
    export(Pretrained("llm", CONFIG, ours.state_dict()), tmp_path / "hf")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    expected = plain_loop(theirs, torch.from_numpy(tokens(n).astype("int64"))[None], 16, stride)
    _, lost = all_losses(ours, tokens(n), stride)
    assert math.exp(lost.mean()) == pytest.approx(math.exp(expected), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 1000])
def test_batches_change_nothing(batch_size):
    model = make()
    targets, lost = all_losses(model, tokens(300), 5, batch_size)
    expected_targets, expected = all_losses(model, tokens(300), 5, 8)
    assert np.array_equal(targets, expected_targets)
    torch.testing.assert_close(lost, expected, atol=1e-5, rtol=0)


def test_the_losses_are_those_of_the_tokens_in_their_order():
    model = make()
    ids = tokens(12)
    targets, lost = all_losses(model, ids)
    assert targets.tolist() == ids[1:].tolist()
    logits = model(torch.from_numpy(ids.astype("int64"))[None])[0, :-1]
    expected = F.cross_entropy(logits, torch.from_numpy(targets), reduction="none")
    torch.testing.assert_close(lost.float(), expected)


def test_a_longer_context_is_the_default():
    model = make()
    assert torch.equal(all_losses(model, tokens(100))[1], all_losses(model, tokens(100), 8)[1])


def test_a_padded_vocabulary_changes_nothing():
    model = make()
    padded = GPT(replace(CONFIG, vocab_multiple=64)).eval()
    state = model.state_dict()
    for name in ("embeddings.token.weight", "head.weight"):
        state[name] = torch.cat([state[name], torch.full((3, 12), 50.0)])  # would win, if it were looked at
    padded.load_state_dict(state)
    torch.testing.assert_close(all_losses(padded, tokens(100))[1], all_losses(model, tokens(100))[1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"stride": 0}, ConfigError, "stride must be from 1 to the context length, 16; got 0"),
        ({"stride": 17}, ConfigError, "got 17"),
        ({"batch_size": 0}, ConfigError, "batch_size must be at least 1"),
        ({"tokens": tokens(1)}, DataError, "nothing to predict"),
        ({"tokens": tokens(50, 62 * 3)}, DataError, "the model 61 tokens"),
    ],
)
def test_what_can_not_be_measured(options, error, message):
    with pytest.raises(error, match=message):
        all_losses(make(), **({"tokens": tokens(20)} | options))


@pytest.mark.parametrize("kind", ["dot", "self"])
def test_a_model_that_sees_the_future_has_no_perplexity(kind):
    with pytest.raises(ConfigError, match="has no perplexity"):
        all_losses(make(replace(CONFIG, attention=kind)), tokens(20))


# Texts


def test_measures_of_a_uniform_model(tmp_path):
    """A model whose logits are all the same: every measure is known in advance."""
    (tmp_path / "a.txt").write_text("abcä" * 20, encoding="utf-8")
    tokenizer = CharTokenizer("abcä")
    model = GPT(replace(CONFIG, vocab_size=4)).eval()
    nn.init.zeros_(model.head.weight)
    found = evaluate_text(model, tokenizer, str(tmp_path / "a.txt"), tmp_path / "cache")
    assert found.n_tokens == 79
    assert found.loss == pytest.approx(math.log(4))
    assert found.perplexity == pytest.approx(4)
    assert found.bits_per_character == pytest.approx(2)
    assert found.bits_per_byte == pytest.approx(2 * 79 / 99)  # the first a is not predicted; ä has two bytes


def test_bits_do_not_depend_on_how_characters_are_cut(tmp_path):
    text = "猫が座った。 😀 naïve\n" * 30
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    model = make(GPTConfig(vocab_size=50257, context_length=16, n_layer=1, n_head=1, n_embd=4))
    found = evaluate_text(model, BPETokenizer(), str(tmp_path / "a.txt"), tmp_path / "cache")
    first = len(BPETokenizer().token_bytes(BPETokenizer().encode(text)[0]))
    assert found.n_bytes == len(text.encode()) - first
    assert found.n_characters == len(text) - (first > 0)
    assert found.bits_per_byte * found.n_bytes == pytest.approx(found.nats / math.log(2))


def test_what_stands_between_documents_is_no_text(tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("abc" * 10)
    tokenizer = CharTokenizer("abc", ("<|endoftext|>",))
    model = make(replace(CONFIG, vocab_size=4))
    found = evaluate_text(model, tokenizer, str(tmp_path), tmp_path / "cache")
    assert (found.n_tokens, found.n_bytes, found.n_characters) == (60, 59, 59)


def test_validate_and_evaluate_agree_on_bits_per_byte(tmp_path):
    """Where both see the same windows: side by side, judged but for the first token of each."""
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("abcä" * 50, encoding="utf-8")
    cache = str(tmp_path / "cache")
    config = TokenizerConfig("char")
    data = TextDataModule(str(tmp_path), config, 16, validation_corpus=str(tmp_path), cache_dir=cache)
    tokens = data.validation_tokens
    assert data.tokenizer.end_of_text_id in tokens
    n_bytes = 2 * 50 * len("abcä".encode())  # what stands between the documents is not text
    assert data.bytes_per_token("validation") == pytest.approx(n_bytes / len(tokens))
    model = make(replace(CONFIG, vocab_size=data.vocab_size))
    found = evaluate_text(model, data.tokenizer, str(tmp_path), cache)
    assert found.n_bytes == n_bytes - 1  # the first a is not predicted


def test_token_ids_are_measured_as_the_text_that_they_are_of(tmp_path):
    text = tmp_path / "a.txt"
    text.write_text("The Bishop was in Wenna.\n" * 40)
    model = make(GPTConfig(vocab_size=50257, context_length=16, n_layer=1, n_head=1, n_embd=4))
    expected = evaluate_text(model, BPETokenizer(), str(text), tmp_path / "cache")
    tokenize(Plan([text], BPETokenizer()), tmp_path / "shards")
    np.array(BPETokenizer().encode(text.read_text()), "<u2").tofile(tmp_path / "raw.bin")
    for corpus in ("shards", "raw.bin"):
        assert evaluate_text(model, BPETokenizer(), str(tmp_path / corpus), tmp_path / "cache") == expected


def test_what_nobody_knows_of_token_ids_is_left_out(tmp_path):
    (tmp_path / "a.txt").write_text("the cat sat " * 10)
    tokenizer = WordTokenizer.from_text("the cat sat")
    tokenize(Plan([tmp_path / "a.txt"], tokenizer), tmp_path / "shards")
    model = make(replace(CONFIG, vocab_size=tokenizer.vocab_size))
    found = evaluate_text(model, tokenizer, str(tmp_path / "shards"), tmp_path / "cache")
    assert "bits_per_byte" in found.to_dict()
    assert "bits_per_character" not in found.to_dict()
    with pytest.raises(DataError, match="ids of the tokenizer 'word'"):
        evaluate_text(model, CharTokenizer("abc"), str(tmp_path / "shards"), tmp_path / "cache")


def test_words_are_measured_by_the_mean_of_the_text(tmp_path):
    (tmp_path / "a.txt").write_text("the  cat\nsat ä " * 10, encoding="utf-8")
    tokenizer = WordTokenizer.from_text("the cat sat ä")
    model = make(replace(CONFIG, vocab_size=tokenizer.vocab_size))
    found = evaluate_text(model, tokenizer, str(tmp_path / "a.txt"), tmp_path / "cache")
    assert found.n_tokens == 39
    assert found.n_bytes == pytest.approx(160 * 39 / 40)
    assert found.n_characters == pytest.approx(150 * 39 / 40)


def test_a_text_of_separators_alone_has_no_bits():
    assert math.isnan(Evaluation(2, 1.0, 0, 0).bits_per_byte)
