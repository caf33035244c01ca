"""The notebook that walks the notes' stages, and its Chinese version: the code runs, and the figures are the notes'."""

import contextlib
import io
import json
import re
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOK = json.loads((DOCS / "notes.ipynb").read_text(encoding="utf-8"))
CELLS = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
TRAINED = next(index for index, cell in enumerate(CELLS) if "trainer.fit" in "".join(cell["source"]))


def printed(cell):
    """What a cell has printed, as it is stored."""
    return "".join("".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream")


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The variables after the last cell, and what each cell printed; whatever a cell raises fails the test."""
    variables: dict[str, object] = {"__name__": "notes"}
    output = []
    with contextlib.chdir(tmp_path_factory.mktemp("notes")):
        for number, cell in enumerate(CELLS):
            with contextlib.redirect_stdout(io.StringIO()) as stream:
                exec(compile("".join(cell["source"]), f"cell {number}", "exec"), variables)
            output.append(stream.getvalue())
    torch.set_printoptions(profile="default")
    return variables, output


def test_every_cell_runs_and_stores_what_it_prints(executed):
    """After training, figures may differ from machine to machine in their last digits."""
    _, output = executed
    for cell, found in list(zip(CELLS, output, strict=True))[:TRAINED]:
        assert found == printed(cell), "run: jupyter nbconvert --to notebook --execute --inplace docs/notes.ipynb"


def test_the_figures_are_those_of_the_notes(executed, figures):
    variables, _ = executed
    attention = figures["simple_attention"]
    assert variables["names"] == attention["words"]
    for name, expected in {
        "x": attention["inputs"],
        "scores": attention["scores_of_query_1"],
        "twice": attention["softmax_of_the_sum_normalized_of_query_1"],
        "rows": figures["embeddings"]["seed_123_vocab6_dim3"]["rows"],
    }.items():
        torch.testing.assert_close(variables[name], torch.tensor(expected), atol=1e-4, rtol=0)
    for name, expected in (("weights", attention["weights"]), ("context", attention["context_vectors"])):
        torch.testing.assert_close(variables["dot"][name][0], torch.tensor(expected), atol=1e-4, rtol=0)
    assert variables["text"] == figures["gpt2_bpe"]["text"]
    assert variables["bpe_ids"] == figures["gpt2_bpe"]["ids"]


def test_it_learns(executed):
    variables, _ = executed
    assert variables["after"] < 2.6 < variables["before"]
    assert variables["causal"]["weights"][0].triu(1).count_nonzero() == 0


def test_the_stored_notebook_is_small_whole_and_without_errors():
    assert (DOCS / "notes.ipynb").stat().st_size < 100_000
    assert all(output["output_type"] != "error" for cell in CELLS for output in cell["outputs"])
    shown = {kind for cell in CELLS for output in cell["outputs"] for kind in output.get("data", {})}
    assert {"image/png", "text/html"} <= shown
    assert all(cell["outputs"] for cell in CELLS)


def test_the_chinese_walk_has_the_same_code_and_output():
    page = (DOCS / "notes.zh.md").read_text(encoding="utf-8")
    blocks = {
        kind: re.findall(rf"^```{kind}\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL) for kind in ("python", "text")
    }
    assert blocks["python"] == ["".join(cell["source"]) for cell in CELLS]
    assert blocks["text"] == [printed(cell).rstrip("\n") for cell in CELLS if printed(cell)]
