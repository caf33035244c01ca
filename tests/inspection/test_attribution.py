"""What a label rests on, against forward passes made one by one."""

from __future__ import annotations

import pytest
import torch

import llm
from llm.config import ClassifierConfig
from llm.errors import ConfigError
from llm.inspection import capture, logit_lens, trace_shapes
from llm.inspection.attribution import attribution_figure, confusion_figure, last_token_figure, leave_one_out
from llm.inspection.lens import lens_table
from llm.model import GPT, build_network
from llm.tokenizers import CharTokenizer

CONFIG = ClassifierConfig(17, 50, 2, 2, 8, labels=("yes", "no", "maybe"))
LETTERS = CharTokenizer([chr(97 + i) for i in range(17)])


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = build_network(CONFIG)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.train()


@pytest.mark.parametrize("length", [2, 5, 40])
def test_it_is_what_the_log_odds_lose_without_the_token(model, length):
    ids = torch.randint(17, (length,))
    found = leave_one_out(model, ids, 1)
    assert model.training, "the model is left as it was"
    model.eval()

    def log_odds(tokens):
        logits = model(tokens[None])[0]
        return float(logits[1] - (logits[0] + logits[2]) / 2)

    expected = [log_odds(ids) - log_odds(torch.cat([ids[:t], ids[t + 1 :]])) for t in range(length)]
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    best = int(model(ids[None]).argmax())
    assert torch.equal(leave_one_out(model, ids), leave_one_out(model, ids, best))
    assert leave_one_out(model, ids[:1]).tolist() == [0.0]


def test_a_report_of_a_classifier(model):
    report = llm.inspect(model, [3, 1, 4, 1, 5], LETTERS)
    assert report.attribution().size[0] > 100
    assert report.classes == ("yes", "no", "maybe")
    assert report["last token"].shape == (1, 8)
    assert last_token_figure(report.capture, report.labels).size[0] > 100
    layers = logit_lens(model, report.capture)
    assert layers[-1].ranks.numel() == 0
    best = int(report["logits"].argmax())
    assert int(layers[-1].top_ids[-1, 0]) == best, "read at the last token, the last layer gives the label"
    table = lens_table(layers, report.ids, LETTERS, report.classes).splitlines()
    assert table[0] == "| token | embeddings | block 0 | block 1 |"
    assert CONFIG.labels[best] in table[-1]
    assert '"labels":true' in str(report.page())
    with pytest.raises(ConfigError, match="an attribution is for the label of a classifier"):
        llm.inspect(GPT(CONFIG), [1, 2]).attribution()


def test_the_shapes_of_a_classifier():
    rows = {row.stage: row for row in trace_shapes(CONFIG, 4)}
    assert (rows["last token"].shape, rows["logits"].shape, rows["loss"].shape) == ((4, 8), (4, 3), ())
    assert rows["logits"].parameters == 8 * 3 + 3
    assert sum(row.parameters for row in rows.values()) == build_network(CONFIG).n_parameters
    found = capture(build_network(CONFIG), torch.zeros(2, 4, dtype=torch.int64), torch.tensor([0, 2]))
    assert found.tensor("loss") > 0


def test_pictures_of_nothing():
    assert attribution_figure(torch.zeros(2), ["a", "b"], "yes", 0.5).size[0] > 0
    assert confusion_figure(torch.tensor([[0, 0], [3, 1]]), ["yes", "no"], "none of yes").size[0] > 0
