"""Nothing that a file or a setting holds is run."""

from __future__ import annotations

import http.server
import json
import pickle
import threading
from pathlib import Path

import pytest
import torch

import llm
from llm.__main__ import main as command
from llm.cli.main import main as train
from llm.data import TextDataModule
from llm.errors import CheckpointError
from llm.model import GPT
from llm.pretrained.checkpoint import checkpoint_of, read_checkpoint, write_checkpoint
from llm.tasks import LanguageModel
from llm.tokenizers import CharTokenizer

REPOSITORY = Path(__file__).parents[2]
QUICK = ["--model.gpt.n_layer=1", "--model.gpt.n_head=2", "--model.gpt.n_embd=8", "--data.tokenizer.kind=char"]
RUN = ["--data.context_length=16", "--data.batch_size=2", "--trainer.max_steps=1", "--trainer.limit_val_batches=1"]


class Payload:
    """Unpickled, it writes a file: the canary that must not be there."""

    def __reduce__(self):
        return exec, ("open('canary', 'w').write('code ran')",)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    yield
    assert not Path("canary").exists(), "code from a file was run"


def run(*words: str) -> int:
    return train(["fit", *QUICK, *RUN, *words], default_config=REPOSITORY / "configs" / "default.yaml")


def error_of(capsys, call, *words) -> str:
    """The one line that is printed by a command which fails."""
    capsys.readouterr()
    assert call(*words) != 0
    printed = capsys.readouterr().err.strip().splitlines()
    assert printed[-1].startswith("error: ")
    assert "Traceback" not in "".join(printed)
    return printed[-1]


# Pickles


def write_zip(path):
    torch.save({"llm": {"version": 1}, "state_dict": {"a": torch.zeros(1)}, "x": Payload()}, path)


def write_legacy(path):
    torch.save({"model": {"a": torch.zeros(1)}, "x": Payload()}, path, _use_new_zipfile_serialization=False)


def write_plain(path):
    Path(path).write_bytes(pickle.dumps(Payload()))


ENTRIES = {
    "fit": lambda path: run("--ckpt_path", path),
    "pretrained": lambda path: run("--model.pretrained", path),
    "tokenizer": lambda path: run("--data.tokenizer.checkpoint", path),
    "validate": lambda path: train(["validate", "--ckpt_path", path]),
    "test": lambda path: train(["test", "--ckpt_path", path]),
    "predict": lambda path: train(["predict", "--ckpt_path", path]),
    "import": lambda path: command(["import", "--from", path, "--out", "out.ckpt"]),
    "export": lambda path: command(["export", "--ckpt", path, "--out", "out"]),
    "generate": lambda path: command(["generate", "--ckpt", path, "--prompt", "a"]),
    "attention": lambda path: command(["attention", "--ckpt", path, "--text", "a"]),
    "trace": lambda path: command(["trace", "--ckpt", path, "--text", "a"]),
    "evaluate": lambda path: command(["evaluate", "--ckpt", path, "--data.corpus", "story"]),
}


@pytest.fixture
def server(tmp_path):
    """The address at which the files of this folder can be downloaded."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_pickle_is_refused_wherever_a_file_is_read(entry, capsys, server):
    for number, ending in enumerate(("ckpt", "bin", "pt", "pth", "safetensors")):
        for write in (write_zip, write_legacy, write_plain) if number == 0 else (write_zip,):
            write(f"evil.{ending}")
            error_of(capsys, ENTRIES[entry], f"evil.{ending}")
        assert "is a URL" in error_of(capsys, ENTRIES[entry], f"{server}/evil.{ending}")
    assert not list(Path().glob("out*"))


@pytest.mark.parametrize("entry", ["pretrained", "import", "generate"])
def test_a_folder_of_pickles_is_refused(entry, capsys):
    Path("model").mkdir()
    write_zip("model/pytorch_model.bin")
    error_of(capsys, ENTRIES[entry], "model")
    index = {"weight_map": {"wte.weight": "part.bin"}}
    Path("model/pytorch_model.bin.index.json").write_text(json.dumps(index))
    write_zip("model/part.bin")
    error_of(capsys, ENTRIES[entry], "model")


def test_no_function_of_the_library_unpickles(server):
    write_zip("evil.ckpt")
    for path in ("evil.ckpt", f"{server}/evil.ckpt"):
        for call in (
            llm.load,
            read_checkpoint,
            LanguageModel.load_from_checkpoint,
            TextDataModule.load_from_checkpoint,
            lambda path: LanguageModel(pretrained=path),
        ):
            with pytest.raises(CheckpointError):
                call(path)


# Names of code in checkpoints


@pytest.fixture
def checkpoint(tiny):
    """What a checkpoint holds, to be changed and written."""
    tokenizer = CharTokenizer("abcdefghijklmnop", ["<|endoftext|>"])
    return checkpoint_of(tiny, GPT(tiny).state_dict(), tokenizer)


def test_a_module_is_loaded_as_lightning_does_it(checkpoint, tiny):
    write_checkpoint(checkpoint, "good.ckpt")
    module = LanguageModel.load_from_checkpoint("good.ckpt")
    assert module.gpt.config == tiny
    assert torch.equal(module.gpt.head.weight, checkpoint["state_dict"]["network.head.weight"])


@pytest.mark.parametrize("key", ["_instantiator", "_class_path", "class_path"])
@pytest.mark.parametrize("entry", ["hyper_parameters", "datamodule_hyper_parameters"])
def test_a_checkpoint_that_names_code_is_refused(checkpoint, key, entry, capsys):
    Path("evil.py").write_text("open('canary', 'w').write('imported')\ndef call(*a, **k): pass\n")
    checkpoint[entry] = {key: "evil.call"}
    write_checkpoint(checkpoint, "evil.ckpt")
    for name in ("fit", "validate", "pretrained", "import", "generate"):
        message = error_of(capsys, ENTRIES[name], "evil.ckpt")
        assert f"names code to run ({entry}: {key} 'evil.call')" in message


def test_hyper_parameters_of_a_checkpoint_change_no_setting(checkpoint, capsys):
    checkpoint["hyper_parameters"] = {"pretrained": "nowhere", "compile": True}
    write_checkpoint(checkpoint, "odd.ckpt")
    Path("text.txt").write_text("abcdefgh" * 20)
    assert train(["validate", "--ckpt_path", "odd.ckpt", "--data.corpus", "text.txt"]) == 0


# Names of code in settings


@pytest.fixture
def package():
    Path("foreign.py").write_text("""
open("canary", "w").write("imported")
from lightning import Callback

class Mine(Callback):
    pass

def make() -> Callback:
    return Mine()
""")


SETTINGS = ["callbacks", "logger", "strategy", "plugins", "profiler", "accelerator"]


@pytest.mark.parametrize("name", SETTINGS)
def test_classes_of_other_packages_are_not_imported(name, package, capsys):
    made = ["os.system", "subprocess.Popen", "builtins.exec", "foreign.Mine", "foreign.make", "jsonargparse.CLI"]
    for path in made:
        message = error_of(capsys, run, f"--trainer.{name}={{class_path: {path}, init_args: {{command: ls}}}}")
        if name not in ("accelerator", "strategy", "profiler"):  # these take any text for a name
            assert f"{path!r} is code of another package than llm, lightning, torch, torchmetrics" in message
        error_of(capsys, run, f"--trainer.{name}={path}")
    assert not Path("runs").exists()


def test_files_are_held_to_the_same(package, capsys):
    for content in (
        "trainer: {callbacks: [{class_path: foreign.Mine}]}",
        "trainer: {logger: {class_path: foreign.Mine}}",
        "trainer: {callbacks: {class_path: lightning.pytorch.callbacks.LambdaCallback, "
        "init_args: {on_train_start: foreign.make}}}",
    ):
        Path("bad.yaml").write_text(content)
        message = error_of(capsys, run, "--config", "bad.yaml")
        assert "is not imported; if you trust it: --allow_classes foreign" in message
    Path("group.yaml").write_text("callbacks: [{class_path: foreign.Mine}]")
    assert "--allow_classes foreign" in error_of(capsys, run, "--trainer=group.yaml")
    Path("one.yaml").write_text("class_path: foreign.Mine")
    assert "--allow_classes foreign" in error_of(capsys, run, "--trainer.callbacks=one.yaml")
    Path("bad.yaml").write_text("trainer: !!python/object/apply:os.system ['touch canary']")
    assert "is not valid YAML" in error_of(capsys, run, "--config", "bad.yaml")


def test_a_file_can_not_allow_itself(package, capsys):
    Path("bad.yaml").write_text("allow_classes: foreign\ntrainer: {callbacks: [{class_path: foreign.Mine}]}")
    assert "sets allow_classes, which is not a setting" in error_of(capsys, run, "--config", "bad.yaml")


def test_settings_from_the_environment_are_held_to_the_same(package, capsys, monkeypatch):
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    monkeypatch.setenv("PL_FIT__TRAINER__CALLBACKS", "foreign.Mine")
    assert "--allow_classes foreign" in error_of(capsys, run)


def test_even_a_trusted_package_gives_classes_only(capsys):
    for path in ("torch.hub.load", "torch.load", "torch.utils.cpp_extension.load", "lightning.pytorch.os.system"):
        error_of(capsys, run, f"--trainer.callbacks={path}")
        error_of(capsys, run, f"--trainer.callbacks={{class_path: {path}, init_args: {{github: x}}}}")
        inner = f"{{class_path: LambdaCallback, init_args: {{on_train_start: {path}}}}}"
        error_of(capsys, run, f"--trainer.callbacks={inner}")


def test_a_user_allows_a_package_on_the_command_line_and_for_that_run_alone(package, capsys):
    assert run("--trainer.callbacks=foreign.Mine", "--allow_classes", "foreign") == 0
    assert Path("canary").exists()
    Path("canary").unlink()
    assert "--allow_classes foreign" in error_of(capsys, run, "--trainer.callbacks=foreign.Mine")
    for words, expected in (
        (["--allow_classes=jsonargparse"], "can't be allowed"),
        (["--allow_classes=a b"], "takes names of packages or classes"),
        (["--allow_classes"], "takes names of packages or classes"),
    ):
        assert expected in error_of(capsys, run, *words)


def test_configurations_are_not_fetched(server, capsys):
    Path("good.yaml").write_text("{trainer: {max_steps: 1}}")
    assert "is a URL" in error_of(capsys, run, "--config", f"{server}/good.yaml")
    error_of(capsys, run, f"--trainer={server}/good.yaml")


def test_checkpoints_of_the_trainer_are_read_by_this_package_alone(capsys):
    error_of(capsys, run, "--trainer.plugins=lightning.pytorch.plugins.io.TorchCheckpointIO")
