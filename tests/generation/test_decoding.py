from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.config import SamplingConfig
from llm.errors import ConfigError, GenerationError
from llm.generation import generate, generate_batch, log_probabilities
from llm.generation.decoding import Reader
from llm.pretrained.twin import hugging_face_twin

GREEDY = SamplingConfig(max_new_tokens=12, temperature=0.0)
SAMPLED = SamplingConfig(max_new_tokens=12, temperature=1.0, top_k=20)


def naive_greedy(model, prompt, n_tokens):
    """The whole window read anew for each token."""
    ids = prompt.tolist()
    with torch.no_grad():
        for _ in range(n_tokens):
            window = torch.tensor([ids[-model.config.context_length :]])
            ids.append(int(model(window)[0, -1].argmax()))
    return ids[len(prompt) :]


# What the model sees


@given(seed=st.integers(0, 1000), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4))
def test_logits_are_those_of_the_window_at_every_step(make_model, seed, lengths):
    model = make_model(seed)
    texts = [torch.randint(50, (length,)).tolist() for length in lengths]
    reader = Reader(model, texts, SamplingConfig(max_new_tokens=20))
    with torch.no_grad():
        for _ in range(20):  # from wherever each begins, past the context of 16
            found = reader.logits(range(len(texts)))
            for row, text in enumerate(texts):
                expected = model(torch.tensor([text[-16:]]))[0, -1]
                torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)
                text.append(int(torch.randint(50, ())))


@pytest.mark.parametrize("attention", ["dot", "self", "causal", "multi_head"])
def test_greedy_text_is_that_of_the_plain_loop(make_model, prompts, attention):
    model = make_model(attention=attention)
    expected = [naive_greedy(model, prompt, 12) for prompt in prompts]
    assert [list(generate(model, prompt, GREEDY)) for prompt in prompts] == expected
    assert [samples for (samples,) in generate_batch(model, prompts, GREEDY)] == expected


@pytest.mark.parametrize(("n_layer", "n_head", "n_embd"), [(1, 1, 4), (2, 4, 16), (3, 3, 24)])
def test_greedy_text_is_that_of_hugging_face(make_model, n_layer, n_head, n_embd):
    pytest.importorskip("transformers")
    model = make_model(n_layer=n_layer, n_head=n_head, n_embd=n_embd, context_length=32)
    twin = hugging_face_twin(model)
    settings = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    texts = [torch.randint(50, (length,)) for length in (5, 1, 12)]
    ours = [samples for (samples,) in generate_batch(model, texts, replace(GREEDY, max_new_tokens=20))]
    for text, found in zip(texts, ours, strict=True):
        theirs = twin.generate(text[None], attention_mask=torch.ones(1, len(text)).long(), **settings)
        assert found == theirs[0, len(text) :].tolist()
    # Hugging Face pads a batch on the left.
    padded = torch.stack([torch.cat([torch.zeros(12 - len(text)).long(), text]) for text in texts])
    mask = torch.stack([torch.arange(12) >= 12 - len(text) for text in texts]).long()
    theirs = twin.generate(padded, attention_mask=mask, **settings)
    assert ours == theirs[:, 12:].tolist()
    assert len({tuple(found) for found in ours}) > 1


# Rows


def test_a_row_does_not_depend_on_the_others(make_model, prompts):
    model = make_model()
    sampling = replace(SAMPLED, repetition_penalty=1.2)
    together = generate_batch(model, prompts, sampling)
    assert together == [generate_batch(model, [prompt], sampling)[0] for prompt in prompts]
    assert together[::-1] == generate_batch(model, prompts[::-1], sampling)
    assert [samples[0] for samples in together] == [list(generate(model, prompt, sampling)) for prompt in prompts]


def test_samples_differ_and_the_first_ones_stay(make_model, prompts):
    model = make_model()
    three, two = (generate_batch(model, prompts[:2], replace(SAMPLED, n_samples=n)) for n in (3, 2))
    assert [len(samples) for samples in three] == [3, 3]
    assert [samples[:2] for samples in three] == two
    assert len({tuple(ids) for samples in three for ids in samples}) == 6


def test_different_prompts_draw_different_numbers(make_model):
    model = make_model(std=1e-6)  # every token is as likely as any other
    texts = generate_batch(model, [torch.tensor([token]) for token in range(20)], SAMPLED)
    assert len({tuple(samples[0][:3]) for samples in texts}) == 20


def test_the_same_seed_gives_the_same_text(make_model, prompts):
    model = make_model()
    torch.manual_seed(1)
    first = generate_batch(model, prompts, SAMPLED)
    torch.manual_seed(2)
    assert generate_batch(model, prompts, SAMPLED) == first
    assert generate_batch(model, prompts, replace(SAMPLED, seed=124)) != first


def test_the_largest_seed(make_model, prompts):
    model = make_model()
    assert len(generate_batch(model, prompts[:1], replace(SAMPLED, seed=2**63 - 1, n_samples=2))[0]) == 2


def test_no_prompts(make_model):
    assert generate_batch(make_model(), [], SAMPLED) == []


# Ends


def test_a_row_ends_before_a_stop_token(make_model, prompts):
    model = make_model()
    free = [samples[0] for samples in generate_batch(model, prompts, GREEDY)]
    stop = free[0][5]
    expected = [ids[: ids.index(stop)] if stop in ids else ids for ids in free]
    assert expected != free
    for ended in (
        generate_batch(model, prompts, GREEDY, stop_id=stop),
        generate_batch(model, prompts, replace(GREEDY, stop_ids=(stop,))),
        generate_batch(model, prompts, replace(GREEDY, stop_ids=(stop, stop)), stop_id=stop),
    ):
        assert [samples[0] for samples in ended] == expected
    assert list(generate(model, prompts[0], GREEDY, stop_id=free[0][0])) == []


def test_a_repeated_token_can_be_made_unlikely(make_model, prompts):
    model = make_model()
    ids = list(generate(model, prompts[0], replace(GREEDY, repetition_penalty=1e6)))
    plain = list(generate(model, prompts[0], GREEDY))
    assert len(set(plain)) < len(set(ids))
    assert not set(prompts[0].tolist()) & set(ids)


def test_stop_texts_need_a_tokenizer(make_model, prompts):
    sampling = replace(GREEDY, stop=("\n",))
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        next(generate(make_model(), prompts[0], sampling))
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        generate_batch(make_model(), prompts, sampling)


# The model is left as it was


def test_the_model_is_in_its_own_mode_between_steps(make_model, prompts):
    model = make_model(dropout=0.5)
    expected = list(generate(model, prompts[0], GREEDY))
    model.train()
    found = []
    for token in generate(model, prompts[0], GREEDY):
        assert model.training
        assert torch.is_grad_enabled()
        found.append(token)
    assert found == expected
    assert all(module.training for module in model.modules())


def test_autocast_does_not_change_the_text(make_model, prompts):
    model = make_model()
    with torch.autocast("cpu", torch.bfloat16):
        found = generate_batch(model, prompts, SAMPLED)
    assert found == generate_batch(model, prompts, SAMPLED)


def test_bfloat16_weights(make_model, prompts):
    model = make_model().to(torch.bfloat16)
    found = generate_batch(model, prompts, SAMPLED)
    assert [len(samples[0]) for samples in found] == [12] * len(prompts)


# What can't be


@pytest.mark.parametrize("prompt", [torch.tensor([], dtype=torch.long), torch.zeros(2, 2, dtype=torch.long)])
def test_a_prompt_of_no_text(make_model, prompt):
    with pytest.raises(ConfigError, match="the prompt must be at least one token"):
        list(generate(make_model(), prompt, GREEDY))


@pytest.mark.parametrize("token", [-1, 50])
def test_a_token_outside_the_vocabulary(make_model, prompts, token):
    with pytest.raises(ConfigError, match="prompt 6 holds token ids outside the model's vocabulary of 50"):
        generate_batch(make_model(), [*prompts, torch.tensor([0, token])], GREEDY)


def test_weights_that_are_not_numbers(make_model, prompts):
    model = make_model()
    torch.nn.init.constant_(model.blocks[0].mlp.expand.weight, float("nan"))
    with pytest.raises(GenerationError, match="logits are NaN or infinite"):
        generate_batch(model, prompts, GREEDY)


# Log-probabilities


@given(length=st.integers(1, 16), seed=st.integers(0, 100))
def test_log_probabilities_of_a_text(make_model, length, seed):
    model = make_model(seed)
    ids = torch.randint(50, (length,))
    with torch.no_grad():
        expected = torch.log_softmax(model(ids[None])[0], dim=-1)[torch.arange(length - 1), ids[1:]]
    torch.testing.assert_close(log_probabilities(model, ids), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [16, 17, 18, 24, 25, 26, 50])
def test_log_probabilities_of_a_text_beyond_the_context(make_model, length):
    model = make_model()
    ids = torch.randint(50, (length,))
    found = log_probabilities(model, ids)
    assert found.shape == (length - 1,)
    for target in range(1, length):
        # The window that judges it: the first, or one that begins half a context before what was known.
        known = 0
        while known + (16 if known == 0 else 8) < target:
            known += 16 if known == 0 else 8
        start = max(0, known - 8)
        with torch.no_grad():
            logits = model(ids[None, start:target])[0, -1]
        torch.testing.assert_close(found[target - 1], torch.log_softmax(logits, -1)[ids[target]], atol=1e-5, rtol=1e-5)
