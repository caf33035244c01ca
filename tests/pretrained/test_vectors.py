"""word2vec's format: exact both ways, as gensim has it, and damaged files named."""

import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import GPTConfig, RNNConfig, TokenizerConfig
from llm.errors import CheckpointError, ConfigError
from llm.model import GPT, RNN
from llm.pretrained.checkpoint import checkpoint_of, write_checkpoint
from llm.pretrained.vectors import NamedVectors, read_vectors, write_word2vec
from llm.tokenizers import build_tokenizer

NAMES = st.text(st.characters(exclude_categories=["Cs", "Z", "Cc"]), min_size=1).filter(
    lambda name: name.split() == [name]
)
NUMBERS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def vectors(seed=0):
    table = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed))
    return NamedVectors(["king", "naïve", "王"], table)


@settings(max_examples=40)
@given(data=st.data(), size=st.integers(1, 4), binary=st.booleans())
def test_what_is_written_is_read_back_exactly(data, size, binary, tmp_path_factory):
    names = data.draw(st.lists(NAMES, min_size=1, max_size=5, unique=True))
    rows = data.draw(
        st.lists(st.lists(NUMBERS, min_size=size, max_size=size), min_size=len(names), max_size=len(names))
    )
    table = torch.tensor(np.array(rows, np.float32))
    path = tmp_path_factory.mktemp("vectors") / f"v{'.bin' if binary else '.txt'}"
    write_word2vec(NamedVectors(names, table), path, binary)
    found = read_vectors(path)
    assert list(found.names) == names
    assert torch.equal(found.table, table)


@pytest.mark.parametrize("binary", [False, True])
def test_gensim_reads_ours_and_we_read_gensims(tmp_path, binary):
    KeyedVectors = pytest.importorskip("gensim.models").KeyedVectors
    ours, theirs = tmp_path / ("a.bin" if binary else "a.txt"), tmp_path / ("b.bin" if binary else "b.txt")
    write_word2vec(vectors(), ours, binary)
    opened = KeyedVectors.load_word2vec_format(str(ours), binary=binary)
    assert opened.index_to_key == list(vectors().names)
    assert np.array_equal(opened.vectors, vectors().table.numpy())
    opened.save_word2vec_format(str(theirs), binary=binary)
    found = read_vectors(theirs)
    assert list(found.names) == list(vectors().names)
    assert torch.equal(found.table, vectors().table)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"king 0.1 0.2\n", "first line"),
        ("a.txt", b"", "first line"),
        ("a.txt", b"2 2\nking 0.1 0.2\n", "says 2 words, it has 1"),
        ("a.txt", b"1 2\nking 0.1\n", "line 2: expected a word and 2 numbers"),
        ("a.txt", b"1 2\nking 0.1 high\n", "line 2"),
        ("a.txt", b"1 2\nking 0.1 nan\n", "NaN"),
        ("a.txt", b"1 2\nking 0.1 0.2\nqueen 0.3 0.4\n", "says 1 word, it has more"),
        ("a.bin", b"1 1\nking " + struct.pack("<f", 1) + b"\nqueen ", "says 1 word, it has more"),
        ("a.bin", b"2 1\nking " + struct.pack("<f", 1) + b"\nque", "says 2 words, it has 1"),
        ("a.bin", b"1 2\nking " + struct.pack("<f", 1), "cut short"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=says) as error:
        read_vectors(path)
    assert str(path) in str(error.value)


def test_of_equal_words_the_first_counts(tmp_path):
    (tmp_path / "a.txt").write_text("3 1\nking 1\nqueen 2\nking 3\n")
    found = read_vectors(tmp_path / "a.txt")
    assert (list(found.names), found.table.tolist()) == (["king", "queen"], [[1.0], [2.0]])


def test_what_can_not_be_written_leaves_what_is_there(tmp_path):
    path = tmp_path / "v.txt"
    write_word2vec(vectors(), path)
    with pytest.raises(CheckpointError, match="overwrite"):
        write_word2vec(vectors(1), path)
    with pytest.raises(ConfigError, match="white space"):
        write_word2vec(NamedVectors(["a b"], torch.zeros(1, 2)), path, overwrite=True)
    assert torch.equal(read_vectors(path).table, vectors().table)
    with pytest.raises(CheckpointError, match="can't read"):
        read_vectors(tmp_path / "none.txt")


def test_the_token_embeddings_of_a_gpt_by_name(tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig("word"), ["the King and the queen"])
    model = GPT(GPTConfig(tokenizer.vocab_size, 4, n_layer=1, n_head=1, n_embd=4))
    path = tmp_path / "gpt.ckpt"
    write_checkpoint(checkpoint_of(model.config, model.state_dict(), tokenizer), path)
    found = read_vectors(path)
    assert set(found.names) == {"the", "King", "and", "queen"}
    place = found.find("queen")
    assert torch.equal(found.table[place], model.embeddings.token.weight[tokenizer.encode("queen")[0]])
    assert found.find("THE") == found.find("the")
    assert found.find("prince") is None
    assert found.near("quen") == ["queen"]


def test_the_token_embeddings_of_a_recurrent_network(tmp_path):
    tokenizer = build_tokenizer(TokenizerConfig("word"), ["the King"])
    model = RNN(RNNConfig(tokenizer.vocab_size, 4, tokenizer.vocab_size, n_embd=4, hidden_size=4))
    path = tmp_path / "rnn.ckpt"
    write_checkpoint(checkpoint_of(model.config, model.state_dict(), tokenizer), path)
    found = read_vectors(path)
    assert torch.equal(found.table[found.find("King")], model.embedding.weight[tokenizer.encode("King")[0]])
