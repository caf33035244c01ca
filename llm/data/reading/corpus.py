"""Find the files of a corpus, and report in one line what is wrong with its name."""

from __future__ import annotations

import contextlib
import difflib
import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from llm.data.reading.downloads import download, refuse_other_file
from llm.errors import DataError
from llm.runtime import shipped

KNOWN_CORPORA = {"story": "story.txt", "the-verdict": "the-verdict.txt"}
"""The corpora with a name of their own, and their files in the folder `data`."""

VERDICT_URL = "https://raw.githubusercontent.com/rasbt/LLMs-from-scratch/main/ch02/01_main-chapter-code/the-verdict.txt"
VERDICT_SHA256 = "b41e41a68f0398a3154ae69e2e4c0e2694e17fe0d66730536837f1b01935b31f"


def sources_of(corpus: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """The sources of a corpus, which may be one or several."""
    return [os.fspath(source) for source in ([corpus] if isinstance(corpus, (str, os.PathLike)) else corpus)]


def resolve_corpus(corpus: str | Sequence[str], data_dir: str | Path = "data") -> list[Path]:
    """The files of a corpus, in their order.

    Args:
        corpus: a known name (`story`; `the-verdict`, which is downloaded when it is not there yet), a text file,
            a folder (every `*.txt` in it and below, sorted), a glob pattern (sorted), or several of these.
        data_dir: where the files of known names are looked for, and downloaded to. The sample story is also
            found where it was installed.

    Raises:
        DataError: there is no such corpus, it holds no text files or one of them twice, or it can't be downloaded.
    """
    paths = list(_once(path for source in sources_of(corpus) for path in _resolve_one(source, Path(data_dir))))
    if not paths:
        raise DataError("the corpus is an empty list; give a file, a folder, a pattern or a known name")
    return paths


def _once(paths: Iterable[Path]) -> Iterator[Path]:
    """The paths, none of which may lead to the same file as another."""
    seen: dict[Path, Path] = {}
    for path in paths:
        if (before := seen.setdefault(path.resolve(), path)) is not path:
            also = f", also as {str(before)!r}" if before != path else ""
            raise DataError(f"{str(path)!r} is in the corpus twice{also}; leave one of them out")
        yield path


def _resolve_one(source: str, data_dir: Path) -> list[Path]:
    if source in KNOWN_CORPORA:
        return [_known(source, data_dir)]
    if not source.strip():
        raise DataError("the corpus is an empty name; give a file, a folder, a pattern or a known name")
    path = Path(source).expanduser()
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise DataError(f"can't read {source[:80]!r}: {error.strerror}; the corpus is the path of a file") from error
    if is_folder:
        files = sorted(file for file in path.rglob("*.txt") if file.is_file())
        if not files:
            raise DataError(f"folder {source!r} holds no *.txt file; put text in it, or name the files")
        return files
    if exists:
        if not path.is_file():
            raise DataError(f"{source!r} is not a regular file and can't be read twice; save the text in a file first")
        return [path]
    if glob.has_magic(source):
        # One at a time, for a link to a folder above leads to ever more names.
        files = sorted(_once(Path(name) for name in glob.iglob(str(path), recursive=True) if Path(name).is_file()))
        if not files:
            raise DataError(f"no file matches the pattern {source!r}; check it with: ls {source}")
        return files
    raise DataError(
        f"no corpus {source!r}: there is no such file, folder or pattern, and the known names are "
        f"{', '.join(KNOWN_CORPORA)}{_suggestion(path, data_dir)}"
    )


def _known(name: str, data_dir: Path) -> Path:
    """The file of a known name: in the data folder here, else shipped with the code, else downloaded to here."""
    file_name = KNOWN_CORPORA[name]
    here = data_dir / file_name
    path = next((path for path in (here, shipped.DATA / file_name) if path.is_file()), here)
    if name == "the-verdict":
        if path.is_file():
            refuse_other_file(path, "The Verdict", VERDICT_SHA256)
        else:
            download("The Verdict", VERDICT_URL, path, VERDICT_SHA256)
    elif not path.is_file():
        raise DataError(f"{str(here)!r} is missing, and so is the package's own: install it again, or give a text file")
    return path


def _suggestion(path: Path, data_dir: Path) -> str:
    """`; did you mean ...?`, from the known names and the files beside `path` and in the data folder."""
    names = {name: name for name in KNOWN_CORPORA}
    for folder in (data_dir, path.parent):
        with contextlib.suppress(OSError):
            names |= {file.name: str(file) for file in folder.iterdir()}
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {names[close[0]]!r}?" if close else ""
