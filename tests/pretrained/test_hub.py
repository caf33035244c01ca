"""Published weights by name, without a network: huggingface_hub is replaced."""

import hashlib
import types

import pytest

from llm.errors import CheckpointError
from llm.pretrained import read_pretrained
from llm.pretrained.formats import locate

hub = pytest.importorskip("huggingface_hub")


class Fake:
    """A hub that holds one folder."""

    def __init__(self, folder, sha256=None):
        self.folder = folder
        self.asked = []
        content = (folder / "model.safetensors").read_bytes()
        lfs = types.SimpleNamespace(sha256=sha256 or hashlib.sha256(content).hexdigest())
        self.siblings = [
            types.SimpleNamespace(rfilename="model.safetensors", lfs=lfs, blob_id=None),
            types.SimpleNamespace(rfilename="config.json", lfs=None, blob_id=None),
        ]

    def model_info(self, repository, **_):
        return types.SimpleNamespace(sha="abc", siblings=self.siblings)

    def snapshot_download(self, repository, **options):
        self.asked.append(repository)
        return str(self.folder)


@pytest.fixture(autouse=True)
def somewhere_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def use(monkeypatch, fake):
    monkeypatch.setattr(hub, "HfApi", lambda: fake)
    monkeypatch.setattr(hub, "snapshot_download", fake.snapshot_download)


def test_published_weights_are_fetched(hugging_face, monkeypatch):
    _, folder = hugging_face()
    fake = Fake(folder)
    use(monkeypatch, fake)
    assert read_pretrained("gpt2-medium").config.n_embd == 12
    assert fake.asked == ["openai-community/gpt2-medium"]


def test_a_damaged_download_is_not_used(hugging_face, monkeypatch):
    _, folder = hugging_face()
    use(monkeypatch, Fake(folder, sha256="0" * 64))
    with pytest.raises(CheckpointError, match="damaged: expected SHA-256 0000"):
        read_pretrained("gpt2")


def test_without_a_network_an_earlier_download_has_to_do(hugging_face, monkeypatch):
    _, folder = hugging_face()
    fake = Fake(folder)
    fake.model_info = lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no network"))
    use(monkeypatch, fake)
    assert locate("gpt2") == folder


@pytest.mark.parametrize("name", ["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl"])
def test_without_a_network_it_says_where_to_put_the_folder(monkeypatch, name):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*_, **__):
        raise LocalEntryNotFoundError("nothing here")

    monkeypatch.setattr(hub, "HfApi", lambda: types.SimpleNamespace(model_info=fail))
    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=f"no network.*into a folder '{name}' here") as caught:
        read_pretrained(name)
    assert "\n" not in str(caught.value)


def test_a_download_that_stops_can_go_on(hugging_face, monkeypatch):
    _, folder = hugging_face()
    fake = Fake(folder)
    fake.snapshot_download = lambda *_, **__: (_ for _ in ()).throw(TimeoutError())
    use(monkeypatch, fake)
    with pytest.raises(CheckpointError, match="start again"):
        read_pretrained("gpt2")


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(CheckpointError, match=r"pip install 'see-inside-llm\[hub\]'"):
        read_pretrained("gpt2-xl")


def test_a_folder_of_that_name_needs_no_network(hugging_face):
    hugging_face(name="gpt2-large")
    assert read_pretrained("gpt2-large").config.n_embd == 12


@pytest.mark.parametrize(
    ("name", "repository"),
    [
        ("distilgpt2", "distilbert/distilgpt2"),
        ("openai-community/gpt2", "openai-community/gpt2"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_names_with_an_owner(hugging_face, monkeypatch, name, repository):
    _, folder = hugging_face()
    fake = Fake(folder)
    use(monkeypatch, fake)
    assert read_pretrained(name).config.n_embd == 12
    assert fake.asked == [repository]


@pytest.mark.parametrize(
    "name", ["out/ckpt.pt", "a/b/c", "here/model", "../x", "nosuchname", "runs/best.ckpt", "a b/c"]
)
def test_a_path_that_is_not_there_is_not_asked_for(hugging_face, monkeypatch, tmp_path, name):
    _, folder = hugging_face()
    fake = Fake(folder)
    use(monkeypatch, fake)
    (tmp_path / "here").mkdir()
    with pytest.raises(CheckpointError, match="there is no file or folder"):
        read_pretrained(name)
    assert fake.asked == []


@pytest.mark.parametrize("name", ["a..b/c", "a/b--c", "a/b.git", "a-/b", "a/b.", "a/" + "b" * 97])
def test_what_the_hub_can_not_have_is_not_asked_for(name):
    with pytest.raises(CheckpointError, match="there is no file or folder"):
        locate(name)
