"""Every link, path and module that the documentation names exists."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PAGES = [
    REPOSITORY / name
    for name in ("README.md", "README.zh.md", "SECURITY.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md")
]
PAGES += [path for folder in ("bench", "docs") for path in sorted((REPOSITORY / folder).rglob("*.md"))]

LINK = re.compile(r"(?P<label>\[[^\]]*\])\((?P<target>[^)\s]+)\)|(?:src|srcset|href)=\"(?P<source>[^\"]+)\"")
PATH = re.compile(r"(?<![\w./-])(?:(?:llm|tests|bench|configs|docs)/[\w./-]*[\w/]|(?:train|setup)\.py|pyproject\.toml)")
MODULE = re.compile(r"python -m ((?:llm|bench)(?:\.\w+)*)")

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))


def links(page):
    """The label and the target of each link that leads to something of the repository."""
    for found in LINK.finditer(page.read_text(encoding="utf-8")):
        target = found["target"] or found["source"]
        if "://" not in target:
            yield (found["label"] or "").strip("[]"), target


def anchors(page):
    """The names by which its headings are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_lead_somewhere(page):
    for label, target in links(page):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), f"{label}: {target}"
        assert not anchor or anchor in anchors(linked), f"{label}: {target}"


@every_page
def test_a_link_named_by_a_file_leads_to_that_file(page):
    named = [(label, target) for label, target in links(page) if re.fullmatch(r"[\w./-]+\.(py|yaml|json|md)", label)]
    for label, target in named:
        assert f"/{target}".endswith(f"/{label}")


@every_page
def test_paths_exist(page):
    for path in PATH.findall(page.read_text(encoding="utf-8")):
        assert (REPOSITORY / path).exists(), path


@every_page
def test_modules_that_are_run_exist(page):
    for module in MODULE.findall(page.read_text(encoding="utf-8")):
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def commands(page):
    """The lines of code of a page, indented or fenced, without their comments."""
    code = re.findall(
        r"^```\w*\n(.*?)^```$|^ {4}(\S[^\n]*)$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    lines = "\n".join(fenced or indented for fenced, indented in code).splitlines()
    return [line for line in (re.sub(r"\s*#.*", "", line).rstrip() for line in lines) if line]


def test_the_chinese_readme_has_the_commands_of_the_english_one():
    english, chinese = (commands(REPOSITORY / name) for name in ("README.md", "README.zh.md"))
    assert english == chinese
    assert "python train.py fit --task masked" in english
    assert "import llm" in english


def test_there_is_something_to_check():
    """The patterns above find what they are meant to find."""
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(list(links(REPOSITORY / "README.md"))) > 20
    assert "configs/modern.yaml" in PATH.findall(readme)
    assert "llm/model/gpt.py" in PATH.findall(readme)
    assert "llm" in MODULE.findall(readme)
    assert "bench.faults" in MODULE.findall((REPOSITORY / "docs" / "be-sure.md").read_text(encoding="utf-8"))
