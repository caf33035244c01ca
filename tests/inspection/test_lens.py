"""The lens reads each layer as the model would, and the last one exactly so."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from test_probe import configs, make

from llm.config import TokenizerConfig
from llm.inspection import capture, logit_lens
from llm.inspection.lens import lens_logits, lens_table
from llm.tokenizers import build_tokenizer


@given(config=configs, seed=st.integers(0, 9))
def test_the_last_layer_equals_the_logits_exactly(config, seed):
    model = make(config, seed)
    ids = torch.randint(config.vocab_size, (1, config.context_length))
    found = capture(model, ids)
    assert torch.equal(lens_logits(model, found.after_block(config.n_layer - 1)), found.tensor("logits"))
    with torch.no_grad():
        assert torch.equal(found.tensor("logits"), model.eval()(ids))


def test_ranks_and_guesses_by_hand(tiny):
    model, ids = make(tiny), torch.tensor([[3, 1, 4, 1, 5]])
    found = capture(model, ids)
    layers = logit_lens(model, found, k=3)
    assert [layer.name for layer in layers] == ["embeddings", "block 0", "block 1"]
    for layer, hidden in zip(layers, ["input embeddings", "block 0 / residual", "block 1 / residual"], strict=True):
        with torch.no_grad():
            logits = model.head(model.final_norm(found.tensor(hidden)))[0]
        for position in range(4):
            order = logits[position].argsort(descending=True).tolist()
            assert layer.ranks[position] == 1 + order.index(int(ids[0, position + 1]))
            assert layer.top_ids[position].tolist() == order[:3]
        torch.testing.assert_close(layer.top_probabilities, logits.softmax(-1).topk(3).values)
    assert layers[0].ranks.shape == (4,)


def test_the_end_of_a_text_only(tiny):
    model = make(tiny)
    found = capture(model, torch.arange(8)[None])
    whole, end = logit_lens(model, found), logit_lens(model, found, last=3)
    for a, b in zip(whole, end, strict=True):
        assert torch.equal(a.top_ids[-3:], b.top_ids)
        assert torch.equal(a.ranks[-2:], b.ranks)


def test_the_table_has_a_row_for_each_token_and_no_markup(tiny):
    text = "a|b<c>*"
    tokenizer = build_tokenizer(TokenizerConfig(kind="char", specials=()), [text + "0123456789"])
    ids = tokenizer.encode(text)
    model = make(tiny)
    lines = lens_table(logit_lens(model, capture(model, torch.tensor([ids]))), ids, tokenizer).splitlines()
    assert len(lines) == 2 + len(ids)
    assert {line.count("|") for line in lines} == {6}
    assert not any("<" in line for line in lines)
    assert "rank" in lines[2]
    assert "rank" not in lines[-1]  # nobody knows what comes after the last
