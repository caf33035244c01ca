"""What several tests need: the golden figures, the text they are about, and small things to build from."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from llm.config import GPTConfig

TESTS = Path(__file__).parent
VERDICT = TESTS.parent / "data" / "the-verdict.txt"

torch.set_num_threads(1)  # for tensors this small, threads cost more than they save
settings.register_profile("llm", deadline=None, max_examples=50)
settings.load_profile("llm")


def pytest_collection_modifyitems(items):
    """Tests marked `gpu` need a CUDA device."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="there is no CUDA device"))


@pytest.fixture(scope="session")
def figures():
    """The golden figures of the notes."""
    return json.loads((TESTS / "figures" / "notes.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def verdict():
    """The whole of The Verdict, which the repository does not hold."""
    if not VERDICT.is_file():
        pytest.skip("the corpus file data/the-verdict.txt isn't there")
    return VERDICT.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def opening():
    """How The Verdict begins: 32 tokens in GPT-2's encoding, 30 words."""
    return (
        "I HAD always thought Jack Gisburn rather a cheap genius--though a good fellow enough--so it was no "
        "great surprise to me to hear that,"
    )


@pytest.fixture
def corpus(tmp_path):
    """A text file of 2,112 characters, among them some of two, three and four bytes."""
    path = tmp_path / "corpus.txt"
    path.write_text("The cat sat. Ça va; 猫が座った。 😀 yes\n" * 64, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny():
    """A GPT small enough to build and run in milliseconds."""
    return GPTConfig(vocab_size=17, context_length=8, n_layer=2, n_head=2, n_embd=8)
