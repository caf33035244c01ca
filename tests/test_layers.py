"""Imports go downwards only, from the command line to the machine, and no two files need each other."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

LAYERS = [
    ("train", "llm.__main__"),
    ("llm.cli", "llm.commands"),
    ("llm.preflight",),
    ("llm.inspection",),
    ("llm.tasks",),
    ("llm.training", "llm.runs", "llm.evaluation"),
    ("llm.data", "llm.generation"),
    ("llm.pretrained",),
    ("llm.model",),
    ("llm.tokenizers",),
    ("llm.config",),
    ("llm.runtime",),
    ("llm.errors",),
]
"""From the top down: a module imports from its own layer and from those below it."""

FORBIDDEN = {"llm.model": ("lightning", "llm.tokenizers", "llm.data", "llm.training")}
"""What a package never imports, though the layers would allow some of it."""

EXCEPTIONS = {
    # the type of its argument: a report makes its page
    ("llm.inspection.page", "llm.inspection.report"),
}
"""Imports that circles are not counted through: annotations alone, under `if TYPE_CHECKING`."""


@functools.cache
def modules() -> dict[str, Path]:
    """The path of every module of the package, and of the script, by its name."""
    found = {"train": REPOSITORY / "train.py"}
    for path in (REPOSITORY / "llm").rglob("*.py"):
        parts = path.relative_to(REPOSITORY).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def names_imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a file imports, wherever in it: at the top, in a function, for type checking."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(name: str) -> str | None:
    """The module of ours that a dotted name is, or is in."""
    if name in modules():
        return name
    parent = name.rpartition(".")[0]
    return module_of(parent) if parent else None


@functools.cache
def imports() -> dict[str, set[str]]:
    """The modules of ours that each module imports."""
    return {
        module: {found for name in names_imported(ast.parse(path.read_text())) if (found := module_of(name))} - {module}
        for module, path in modules().items()
    }


def is_within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def layer(module: str) -> int:
    """The number of a module's layer, from 0 at the top."""
    (number,) = (i for i, packages in enumerate(LAYERS) if any(is_within(module, package) for package in packages))
    return number


LAYERED = sorted(module for module in modules() if module != "llm")  # `llm` itself only names what is public


def test_there_is_something_to_check():
    assert len(LAYERED) > 100
    assert "llm.model.gpt" in imports()["llm.model"]
    assert "llm.pretrained" in imports()["llm.inspection.report"], "also what a function imports"


@pytest.mark.parametrize("module", LAYERED)
def test_imports_go_downwards(module):
    upwards = {found for found in imports()[module] - {"llm"} if layer(found) < layer(module)}
    assert not upwards, f"{module} imports {sorted(upwards)} from a layer above its own"


@pytest.mark.parametrize(("package", "names"), FORBIDDEN.items())
def test_a_package_stays_free_of(package, names):
    for module, path in modules().items():
        if is_within(module, package):
            found = [name for name in names_imported(ast.parse(path.read_text())) if name.startswith(names)]
            assert not found, module


def test_no_two_files_need_each_other():
    """What is left when files that import nothing left are taken away, again and again, is in a circle."""
    left = {m: {x for x in found if (m, x) not in EXCEPTIONS} for m, found in imports().items()}
    while done := {module for module, needed in left.items() if not needed}:
        left = {module: needed - done for module, needed in left.items() if module not in done}
    assert not left, f"these import each other: {left}"


def test_every_exception_is_needed():
    for module, imported in EXCEPTIONS:
        assert imported in imports()[module]
