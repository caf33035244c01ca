import random
import zipfile

import pytest
import torch

import llm
from llm.errors import CheckpointError
from llm.model import GPT
from llm.pretrained import read_tokenizer
from llm.pretrained.checkpoint import describe, read_checkpoint
from llm.tokenizers import CharTokenizer, IdTokenizer


@pytest.fixture
def saved(tiny, tmp_path):
    """A checkpoint's path, and the model and tokenizer in it."""
    model = GPT(tiny)
    tokenizer = CharTokenizer("abcdefghijklmnop", ["<|endoftext|>"])
    path = tmp_path / "x.ckpt"
    weights = {f"network.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save({"state_dict": weights, "llm": describe(tiny, tokenizer)}, path)
    return path, model.eval(), tokenizer


def test_one_line_gives_model_and_tokenizer(saved):
    path, model, tokenizer = saved
    loaded, its_tokenizer = llm.load(path)
    assert its_tokenizer == tokenizer
    assert not loaded.training
    ids = torch.tensor([[1, 2, 3]])
    assert torch.equal(loaded(ids), model(ids))


def test_a_checkpoint_without_a_tokenizer_is_of_ids(saved):
    path, model, _ = saved
    content = torch.load(path, weights_only=True)
    content["llm"]["tokenizer"] = None
    torch.save(content, path)
    loaded, tokenizer = llm.load(path)
    assert tokenizer == IdTokenizer(model.config.vocab_size)
    assert torch.equal(loaded(torch.tensor([[1]])), model(torch.tensor([[1]])))
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        read_tokenizer(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("llm"), "the format is not known"),
        (lambda c: c.update(llm=[1]), "no entry 'llm'"),
        (lambda c: c.update(state_dict=[1]), "no entry .* 'state_dict'"),
        (lambda c: c["state_dict"].update({"network.head.weight": 3}), "'network.head.weight' is not a tensor"),
        (lambda c: c["llm"].update(tokenizer="char"), "tokenizer is not a dict"),
        (lambda c: c["llm"].update(tokenizer={}), "tokenizer is not a dict with a kind"),
        (lambda c: c["llm"]["network"].update(n_layer="1"), "n_layer must be an integer, got '1'"),
        (lambda c: c["llm"].update(version=99), "has version 99"),
        (lambda c: c["llm"]["network"].update(n_head=3), "can't be built"),
        (lambda c: c["llm"]["network"].update(unheard_of=1), "can't be built"),
        (lambda c: c["llm"]["tokenizer"].update(kind="?"), "its tokenizer can't be built"),
        (lambda c: c["state_dict"].popitem(), "do not fit the architecture"),
    ],
)
def test_what_does_not_fit_is_refused(saved, change, message):
    path, _, _ = saved
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=message):
        llm.load(path)


def test_what_is_no_checkpoint_is_refused(tmp_path, saved):
    text, cut = tmp_path / "text.ckpt", tmp_path / "cut.ckpt"
    text.write_text("hello")
    cut.write_bytes(saved[0].read_bytes()[:500])
    for path, message in (
        (text, "is not a checkpoint"),
        (cut, "cut short"),
        (tmp_path / "missing.ckpt", "there is no checkpoint"),
        (tmp_path, "is a folder"),
        ("https://example.org/x.ckpt", "is a URL"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_checkpoint(path)


def test_a_changed_bit_is_named_or_changes_nothing(saved):
    path, model, _ = saved
    whole, weights = path.read_bytes(), model.state_dict()
    rng = random.Random(1)
    refused = 0
    for _ in range(300):
        content = bytearray(whole)
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        try:
            found = read_checkpoint(path)["state_dict"]
        except CheckpointError:
            refused += 1
        else:
            assert all(torch.equal(found[f"network.{name}"], tensor) for name, tensor in weights.items())
    assert refused > 200


def test_the_part_that_is_damaged_is_named(saved):
    path, model, _ = saved
    content = bytearray(path.read_bytes())
    content[content.index(model.embeddings.token.weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"its part '.*/data/\d+' does not match its checksum"):
        read_checkpoint(path)


def test_a_file_that_would_grow_when_read_is_refused(tmp_path):
    path = tmp_path / "x.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**6))
    with pytest.raises(CheckpointError, match="torch does not write such files"):
        read_checkpoint(path)


def test_a_run_folder_names_its_checkpoint(saved, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"is a folder; give the \.ckpt file in it$"):
        read_checkpoint(folder)
    (folder / "checkpoints" / "best.ckpt").touch()
    with pytest.raises(CheckpointError, match=r"in it, such as '.*run/checkpoints/best\.ckpt'$"):
        read_checkpoint(folder)
