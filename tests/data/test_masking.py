import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from llm.data import SlidingWindows, TokenBatch
from llm.data.batch import IGNORED
from llm.data.masking import MaskedRows, Masking, WholeRows, WordEdges
from llm.errors import ConfigError
from llm.pretrained import read_tokenizer
from llm.tokenizers import MASK, BPETokenizer, CharTokenizer, WordTokenizer

V, SPECIALS, MASK_ID = 50, (47, 48, 49), 49


def rows(lengths):
    """Batches of padded rows; what stands in the padding is anything."""
    B, T = len(lengths), max(lengths)
    ids = st.lists(st.lists(st.integers(0, V - 1), min_size=T, max_size=T), min_size=B, max_size=B)
    return ids.map(lambda ids: TokenBatch(torch.tensor(ids), torch.zeros(B, T).long(), torch.tensor(lengths)))


batches = st.lists(st.integers(1, 20), min_size=1, max_size=5).flatmap(rows)


def masking(**options):
    return Masking(MASK_ID, SPECIALS, V, **options)


@given(batches, st.floats(0.01, 1), st.integers(0, 2**64), st.integers(0, 9), st.booleans())
def test_laws_of_masking(batch, fraction, seed, epoch, whole_words):
    edges = WordEdges(*(np.arange(V) % k > 0 for k in (2, 3))) if whole_words else None
    hide = masking(fraction=fraction, seed=seed, words=edges)
    inputs, targets, lengths, *_ = hide(batch, range(len(batch.inputs)), epoch)
    assert lengths is batch.lengths
    chosen = targets != IGNORED
    assert torch.equal(targets[chosen], batch.inputs[chosen]), "the targets are the tokens before they were hidden"
    assert torch.equal(inputs[~chosen], batch.inputs[~chosen]), "nothing else is changed"
    real = torch.arange(inputs.shape[1]) < lengths[:, None]
    assert not (chosen & ~real).any(), "no pad is chosen"
    special = torch.isin(batch.inputs, torch.tensor(SPECIALS))
    assert not (chosen & special).any(), "no special token is chosen"
    assert not torch.isin(inputs[chosen], torch.tensor(SPECIALS[:-1])).any(), "none is put in by chance"
    for row, candidates in zip(chosen, real & ~special, strict=True):
        n = int(candidates.sum())
        most = max(1, round(fraction * n))
        if n == 0 or not whole_words:
            assert row.sum() == (most if n else 0)
        else:
            assert row.sum() >= 1


@given(batches, st.integers(0, 2**32), st.integers(0, 9), st.data())
def test_a_mask_depends_on_seed_epoch_and_row_alone(batch, seed, epoch, data):
    numbers = data.draw(st.permutations(range(100)))[: len(batch.inputs)]
    used = masking(seed=seed)
    used(batch, numbers, epoch + 1)
    together = used(batch, numbers, epoch)
    for row, number in enumerate(numbers):
        alone = TokenBatch(*(part[row : row + 1] for part in batch[:3]))
        found = masking(seed=seed)(alone, [number], epoch)
        assert [part[0].tolist() for part in found[:3]] == [part[row].tolist() for part in together[:3]]


def test_rates_are_those_of_bert():
    B, T = 200, 200
    tokens = torch.randint(0, 47, (B, T), generator=torch.Generator().manual_seed(0))
    inputs, targets, lengths, *_ = masking()(TokenBatch(tokens, tokens), range(B), 0)
    assert lengths is None
    chosen = targets != IGNORED
    assert chosen.sum() == 0.15 * B * T  # 6,000
    found = inputs[chosen]
    masked, unchanged = (found == MASK_ID).float().mean(), (found == tokens[chosen]).float().mean()
    by_chance = 1 - masked - unchanged
    assert abs(masked - 0.8) < 0.026  # five standard deviations
    assert abs(unchanged - (0.1 + 0.1 / 47)) < 0.02
    assert abs(by_chance - 0.1 * 46 / 47) < 0.02
    random = found[(found != MASK_ID) & (found != tokens[chosen])]
    assert set(random.tolist()) == set(range(47)), "each ordinary token can come by chance"
    assert chosen.float().mean(0).min() > 0, "each position can be chosen"


def test_rows_epochs_and_seeds_have_masks_of_their_own():
    tokens = torch.zeros(1, 60).long()
    seen = [
        tuple(masking(seed=seed)(TokenBatch(tokens, tokens), [row], epoch).targets[0].tolist())
        for seed, row, epoch in itertools.product(range(4), repeat=3)
    ]
    assert len(set(seen)) == len(seen)


# Whole words


def words_of(tokenizer, text):
    ids = np.array(tokenizer.encode(text))
    numbers = WordEdges.of(tokenizer).words(ids)
    return [tokenizer.decode(ids[numbers == number]) for number in range(numbers.max() + 1)]


def test_words_of_each_tokenizer():
    text = "antidisestablishment isn't 1,234<|endoftext|>naïve"
    assert words_of(BPETokenizer(), text) == [
        *("antidisestablishment", " isn", "'t", " 1", ",", "234", "<|endoftext|>", "naïve")
    ]
    characters = CharTokenizer.from_text("the cat, 猫")
    assert words_of(characters, "the cat, 猫") == ["the", " ", "cat", ",", " ", "猫"]
    assert words_of(WordTokenizer.from_text("the cat sat"), "cat sat the") == ["cat", "sat", "the"]


def test_words_of_word_pieces(tmp_path):
    (tmp_path / "vocab.txt").write_text("[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n##s\n##y\nthe\n.\n")
    tokenizer = read_tokenizer(tmp_path / "vocab.txt")
    assert words_of(tokenizer, "the catsy . [MASK] cats") == ["the", "catsy", ".", "[MASK]", "cats"]


@given(st.lists(st.sampled_from(["cat ", "dogs ", "a ", "hippopotamus "]), min_size=1, max_size=30), st.integers(0, 99))
def test_words_are_hidden_whole_or_not_at_all(words, row):
    tokenizer = CharTokenizer.from_text("abcdefghijklmnopqrstuvwxyz ", [MASK])
    ids = torch.tensor([tokenizer.encode("".join(words))])
    edges = WordEdges.of(tokenizer)
    hide = Masking(tokenizer.special_ids[MASK], [], tokenizer.vocab_size, fraction=0.3, words=edges)
    chosen = (hide(TokenBatch(ids, ids), [row], 0).targets[0] != IGNORED).numpy()
    number_of = edges.words(ids[0].numpy())
    hidden = set(number_of[chosen].tolist())
    assert hidden
    assert chosen.tolist() == [number in hidden for number in number_of.tolist()]
    most = max(1, round(0.3 * len(chosen)))
    assert chosen.sum() <= most or len(hidden) == 1


# Rows


def test_masked_rows_are_the_rows_with_masks_of_their_epoch():
    windows = SlidingWindows(np.arange(47, dtype=np.uint16), 10, 3)
    rows = MaskedRows(windows, masking())
    assert len(rows) == len(windows)
    assert rows.starts == windows.starts
    first, again, other = (rows.gather([4, 2], epoch) for epoch in (0, 0, 1))
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.targets, again.targets)
    assert not torch.equal(first.targets, other.targets)
    restored = torch.where(first.targets == IGNORED, first.inputs, first.targets)
    assert torch.equal(restored, windows.gather([4, 2]).inputs)


def test_what_stands_around_a_text_stands_there_once():
    cls_id, sep_id = 48, 47
    tokens = [cls_id, 1, 2, 3, 4, 5, 6, sep_id, cls_id, 7, 8, 9, 10, 11, 12, 13, sep_id, 14]
    windows = SlidingWindows(np.array(tokens, np.uint16), 4, 4)
    inputs, targets, lengths, *_ = WholeRows(windows, [cls_id], [sep_id]).gather(range(4), 0)
    assert lengths.tolist() == [6, 5, 6, 6]
    shown = [row[:length] for row, length in zip(inputs.tolist(), lengths.tolist(), strict=True)]
    texts = [[1, 2, 3, 4], [4, 5, 6], [7, 8, 9, 10], [10, 11, 12, 13]]
    assert shown == [[cls_id, *text, sep_id] for text in texts]
    assert targets.eq(IGNORED).all()


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.1, float("nan")])
def test_bad_fractions(fraction):
    with pytest.raises(ConfigError, match=r"masked_fraction must be in \(0, 1\]"):
        masking(fraction=fraction)


def test_a_vocabulary_of_special_tokens_alone():
    with pytest.raises(ConfigError, match="only special tokens"):
        Masking(1, [0, 1], 2)
