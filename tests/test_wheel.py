"""The wheel, built and installed without network, and used from an empty folder."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCES = ["LICENSE", "README.md", "configs", "data/story.txt", "llm", "pyproject.toml", "setup.py"]

pytestmark = pytest.mark.slow


def run(*words, folder, **environment):
    """Run a command, which must succeed; gives what it printed."""
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the repository: a build leaves files beside its sources."""
    for needed in ("pip", "setuptools"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} builds the wheel, and it isn't installed")
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source, target = REPOSITORY / name, folder / "source" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel")
    run(*pip, "--no-build-isolation", "--no-deps", "--wheel-dir", folder, folder / "source", folder=folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The folder that the wheel is installed in."""
    target = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install")
    run(*pip, "--no-index", "--no-deps", "--target", target, wheel, folder=target)
    return target


def test_it_holds_the_package_the_story_and_the_configurations(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    metadata = next(name.partition("/")[0] for name in names if name.endswith("/METADATA"))
    expected = {"llm/shipped/data/story.txt", f"{metadata}/licenses/LICENSE"}
    expected |= {f"llm/shipped/{path.relative_to(REPOSITORY)}" for path in (REPOSITORY / "configs").rglob("*.yaml")}
    code = [path for path in (REPOSITORY / "llm").rglob("*") if path.is_file() and path.suffix != ".pyc"]
    expected |= {str(path.relative_to(REPOSITORY)) for path in code}
    assert expected <= names
    assert {name for name in names - expected if not name.startswith(metadata)} == set()


def test_its_commands_run_from_an_empty_folder(installed, tmp_path):
    environment = {"PYTHONPATH": str(installed)}
    where = run(sys.executable, "-c", "import llm; print(llm.__file__)", folder=tmp_path, **environment)
    assert Path(where.strip()).is_relative_to(installed)
    assert "generate" in run(sys.executable, "-m", "llm", "--help", folder=tmp_path, **environment)
    train = installed / "bin" / "llm-train"
    assert run(train, "--help", folder=tmp_path, **environment).startswith("usage: llm-train COMMAND")
    settings = ["--config", "configs/char.yaml", "--trainer.max_steps=1", "--trainer.accelerator=cpu"]
    said = run(train, "fit", *settings, "--inspect.every=0", "--samples.every=0", folder=tmp_path, **environment)
    assert str(installed / "llm" / "shipped" / "configs" / "char.yaml") in said
    (best,) = tmp_path.glob("runs/*/version_0/checkpoints/best.ckpt")
    assert f"--ckpt {best.relative_to(tmp_path)}" in said
    said = run(train, "fit", "--preflight", "--trainer.accelerator=cpu", folder=tmp_path, **environment)
    assert "1,237" in said, "the default configuration learns the story's vocabulary"
