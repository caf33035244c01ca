"""Shapes, maps, lens, gradients and the page of a network that is no GPT."""

from __future__ import annotations

import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import llm
from llm.config import EncoderConfig, GPTConfig
from llm.inspection import attention_maps, capture, head_scores, logit_lens, shape_rows, trace_shapes
from llm.inspection.gradients import layer_parameters
from llm.inspection.lens import lens_table
from llm.inspection.report import Report
from llm.model import GPT, AttentionHook, Encoder, Hook, Network, Stage, build_network
from llm.model.attention import build_attention
from llm.model.cross_attention import build_cross_attention
from llm.model.embeddings import Embeddings, Head
from llm.tokenizers import CharTokenizer

encoders = st.builds(
    EncoderConfig,
    vocab_size=st.just(17),
    context_length=st.just(8),
    n_layer=st.integers(1, 2),
    n_head=st.just(2),
    n_embd=st.just(8),
    n_kv_head=st.sampled_from([None, 1]),
    n_segments=st.sampled_from([0, 2]),
    norm_first=st.booleans(),
    norm=st.sampled_from(["layer_norm", "none"]),
    mlp=st.sampled_from(["plain", "none"]),
    tie_head=st.booleans(),
)
ONE = EncoderConfig(vocab_size=17, context_length=8, n_layer=2, n_head=2, n_embd=8, norm_first=False)


def make(config, seed=0):
    torch.manual_seed(seed)
    model = build_network(config).eval()
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@given(config=encoders, lengths=st.lists(st.integers(1, 6), min_size=2, max_size=2))
def test_an_encoder_is_captured_as_it_runs(config, lengths):
    model, ids, lengths = make(config), torch.randint(17, (2, 6)), torch.tensor(lengths)
    found = capture(model, ids, ids, lengths=lengths)
    torch.testing.assert_close(found.tensor("logits"), model(ids, lengths))
    hidden = found.after_block(config.n_layer - 1)
    torch.testing.assert_close(model.final_norm(hidden), model.hidden_states(ids, lengths))
    for layer, (weights, maps) in enumerate(
        zip(found.maps(), attention_maps(model, ids, lengths=lengths), strict=True)
    ):
        assert torch.equal(weights, maps)
        for row, n in enumerate(lengths.tolist()):
            assert (weights[row, :, :, n:] == 0).all(), "padding is not looked at"
        context, out = found.tensor(f"block {layer} / context"), found.tensor(f"block {layer} / attention out")
        torch.testing.assert_close(model.blocks[layer].attention.output(context), out, atol=1e-5, rtol=1e-5)
    rows = trace_shapes(config, 2, 6)
    assert rows == shape_rows(capture(model, ids, ids))
    assert sum(row.parameters for row in rows) == model.n_parameters
    of_layers = [id(p) for parameters in layer_parameters(model).values() for p in parameters]
    assert sorted(of_layers) == sorted(id(p) for p in model.parameters())


@pytest.mark.parametrize("norm_first", [True, False])
def test_the_residual_stream_after_attention_is_what_the_perceptron_is_added_to(norm_first):
    config = GPTConfig(vocab_size=17, context_length=8, n_layer=1, n_head=2, n_embd=8, norm_first=norm_first)
    model = make(config)
    found = capture(model, torch.randint(17, (2, 6)))
    names = [name.removeprefix("block 0 / ") for name in found]
    total = found.tensor("block 0 / residual after attention") + found.tensor("block 0 / MLP")
    if norm_first:
        assert names.index("attention norm") < names.index("Q") < names.index("MLP norm") < names.index("MLP")
    else:
        assert (
            names.index("attention out") < names.index("attention norm") < names.index("MLP") < names.index("MLP norm")
        )
        assert "final norm" not in names
        total = model.blocks[0].mlp_norm(total)
    torch.testing.assert_close(found.after_block(0), total)


def test_the_lens_of_an_encoder_ranks_the_token_itself():
    model, ids = make(ONE), torch.randint(17, (1, 6))
    layers = logit_lens(model, capture(model, ids))
    logits = model(ids)[0]
    assert layers[-1].ranks.tolist() == [
        1 + int((row > row[token]).sum()) for row, token in zip(logits, ids[0].tolist(), strict=True)
    ]
    table = lens_table(layers, ids[0].tolist(), CharTokenizer([chr(97 + i) for i in range(17)]))
    assert table.splitlines()[0].startswith("| token | target | embeddings |")


def test_the_lens_of_a_masked_text_ranks_what_was_hidden():
    model, before = make(ONE), [3, 1, 4, 1, 5]
    ids = torch.tensor([[3, 16, 4, 1, 5]])  # 16 is the mask
    layers = logit_lens(model, capture(model, ids), originals=before)
    logits = model(ids)[0]
    assert layers[-1].ranks[1] == 1 + int((logits[1] > logits[1, 1]).sum())
    assert logit_lens(model, capture(model, ids), last=4, originals=before)[-1].ranks[0] == layers[-1].ranks[1]
    names = CharTokenizer([chr(97 + i) for i in range(16)]).with_special("[MASK]")
    line = lens_table(layers, ids[0].tolist(), names, originals=before).splitlines()[3]
    assert line.startswith("| \\[MASK\\] | b |") or line.startswith("| [MASK] | b |")


@pytest.mark.parametrize(
    ("ids", "originals", "said"),
    [
        ([3, 1, 4], None, "nothing is masked, so that it sees what it predicts: put [MASK]"),
        ([3, 16, 4], None, "it is hidden where the text has a mask"),
        ([3, 16, 4], [3, 1, 4], "some tokens are masked as in training"),
    ],
)
def test_a_report_says_what_is_masked(ids, originals, said):
    model = make(ONE)
    names = CharTokenizer([chr(97 + i) for i in range(16)]).with_special("[MASK]")
    report = Report(model, capture(model, torch.tensor([ids])), names, originals=originals)
    (note,) = report.notes
    assert said in note
    page = str(report.page())
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    assert note in data["notes"]
    assert data["originals"] == (originals and report.names(originals))
    gpt = GPT(GPTConfig(17, 8, n_layer=1, n_head=2, n_embd=8))
    assert Report(gpt, capture(gpt, torch.tensor([ids])), names).notes == []


def test_the_page_of_an_encoder():
    report = llm.inspect(make(ONE), [3, 1, 4, 1, 5])
    page = str(report.page())
    data = json.loads(re.search(r'<script[^>]*type="application/json"[^>]*>(.*?)</script>', page, re.S)[1])
    assert (data["layers"], data["heads"], data["causal"], data["shift"]) == (2, 2, False, 0)
    assert len(data["lens"][0]["ranks"]) == 5
    assert len(head_scores(report.model, report.maps)) == 4
    assert report.figure(1).size[0] > 100
    assert "block 0-1 / weights" in report.table()


class Reader(Network):
    """The smallest network with a memory: queries that look at a text."""

    def __init__(self, config):
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.own, self.cross = build_attention(config), build_cross_attention(config)
        self.head = Head(config)

    def forward(self, ids, memory):
        x = self.own(self.embeddings(ids))
        return self.head(self.cross(x, None, self.embeddings(memory)))

    def stages(self):
        yield AttentionHook("decoder", self.own, is_causal=True)
        yield AttentionHook("decoder / memory", self.cross, "cross")
        yield Hook("logits", self.head, "(B, T, V)")


def test_attention_to_a_memory_is_captured_as_such(tiny):
    model = Reader(tiny).eval()
    found = capture(model, torch.randint(17, (2, 3)), memory=torch.randint(17, (2, 5)))
    assert [weights.shape for weights in found.maps("self")] == [(2, 2, 3, 3)]
    (weights,) = found.maps("cross")
    assert weights.shape == (2, 2, 3, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 3))
    assert found["decoder / memory / weights"].axes == "(B, H, T, S)"
    assert found["decoder / memory / K"].axes == "(B, H, S, D)"
    assert isinstance(found["logits"], Stage)


def test_an_encoder_is_a_network():
    assert issubclass(Encoder, Network)
