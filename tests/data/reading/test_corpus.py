import hashlib
import io
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.data import resolve_corpus
from llm.data.reading.corpus import KNOWN_CORPORA, VERDICT_SHA256, VERDICT_URL
from llm.data.reading.hashing import corpus_hash
from llm.data.reading.sources import read_document
from llm.errors import DataError


def write(folder, *names, text="some text"):
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return paths


# Finding


def test_a_file(tmp_path):
    (path,) = write(tmp_path, "a.md")
    assert resolve_corpus(str(path)) == [path]
    assert resolve_corpus(path) == [path]


def test_a_folder_is_its_text_files_sorted_at_any_depth(tmp_path):
    write(tmp_path, "b.txt", "a.txt", "c/a.txt", "d.md")
    (tmp_path / "folder.txt").mkdir()
    assert resolve_corpus(str(tmp_path)) == [tmp_path / name for name in ("a.txt", "b.txt", "c/a.txt")]


def test_a_pattern_is_sorted(tmp_path):
    write(tmp_path, "b1.md", "a1.md", "a2.txt", "c/a3.md")
    assert resolve_corpus(f"{tmp_path}/*.md") == [tmp_path / "a1.md", tmp_path / "b1.md"]
    assert resolve_corpus(f"{tmp_path}/**/a*.md") == [tmp_path / "a1.md", tmp_path / "c/a3.md"]


def test_a_file_whose_name_looks_like_a_pattern(tmp_path):
    (path,) = write(tmp_path, "a[1].txt")
    assert resolve_corpus(str(path)) == [path]


def test_a_list_keeps_its_order(tmp_path):
    b, a = write(tmp_path, "b.txt", "a.txt")
    assert resolve_corpus([str(b), str(a)]) == [b, a]


def test_known_names_are_looked_for_in_the_data_folder_first(tmp_path):
    (mine,) = write(tmp_path, "story.txt")
    assert resolve_corpus("story", tmp_path) == [mine]
    elsewhere = resolve_corpus("story", tmp_path / "nowhere")[0]
    assert elsewhere.name == "story.txt"
    assert elsewhere.is_file()


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        ([], "empty list"),
        ("", "empty name"),
        (" ", "empty name"),
        ("{tmp}/missing.txt", r"missing\.txt'.*known names are story, the-verdict"),
        ("{tmp}", r"holds no \*\.txt file"),
        ("{tmp}/*.txt", "no file matches"),
        ("x" * 5000, "name too long"),
    ],
)
def test_nothing_there(tmp_path, corpus, message):
    source = corpus.format(tmp=tmp_path) if isinstance(corpus, str) else corpus
    with pytest.raises(DataError, match=f"(?i){message}") as caught:
        resolve_corpus(source, tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("stroy", "story"), ("the-verdct", "the-verdict"), ("{tmp}/nots.txt", "{tmp}/notes.txt")],
)
def test_a_slip_of_the_pen_gets_a_suggestion(tmp_path, typed, meant):
    write(tmp_path, "notes.txt")
    with pytest.raises(DataError) as caught:
        resolve_corpus(typed.format(tmp=tmp_path), tmp_path / "data")
    assert f"did you mean {meant.format(tmp=tmp_path)!r}?" in str(caught.value)


def test_links_to_a_folder_above_end_in_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    for name in ("one", "two", "three"):  # 3 ** 40 names
        (tmp_path / name).symlink_to(".")
    with pytest.raises(DataError, match=r"a\.txt' is in the corpus twice, also as '.*a\.txt'"):
        resolve_corpus(str(tmp_path / "**" / "*.txt"))


def test_no_document_may_be_there_twice(tmp_path):
    (path,) = write(tmp_path, "b.txt")
    link = tmp_path / "a.txt"
    link.symlink_to(path)
    for corpus in ([path, path], [path, link], [link, path], [path, f"{tmp_path}/*.txt"], str(tmp_path)):
        with pytest.raises(DataError, match=r"\.txt' is in the corpus twice"):
            resolve_corpus(corpus)


# Reading


@given(st.text(st.characters(exclude_characters="\0\r\ufeff", codec="utf-8")).filter(str.strip))
def test_any_text_is_read_as_it_is(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "any.txt"
    path.write_bytes(text.encode())
    assert read_document(path) == text


def test_byte_order_mark_and_windows_line_breaks(tmp_path):
    path = tmp_path / "windows.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\nthree")
    assert read_document(path) == "one\ntwo\n\nthree"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty: 0 bytes"),
        (b" \n\t\r\n", "empty: 5 bytes"),
        (b"\xef\xbb\xbf", "empty: 3 bytes"),
        (b"caf\xe9 noir", "not UTF-8.*0xe9 at offset 3"),
        ("猫".encode() + b"\xff", "not UTF-8.*0xff at offset 3"),
        ("text".encode("utf-16"), "not UTF-8.*0xff at offset 0"),
        (b"ab\xe7\x8c", "not UTF-8.*0xe7 at offset 2"),
        (b"ab\0c", "NUL byte at offset 2"),
        ("é\0".encode(), "NUL byte at offset 2"),
    ],
)
def test_unreadable_content(tmp_path, content, message):
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_document(path)
    assert repr(str(path)) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [read_document, lambda path: corpus_hash([path])])
def test_unreadable_files(tmp_path, read):
    with pytest.raises(DataError, match=r"(?i)gone\.txt.*no such file"):
        read(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"(?i)is a directory"):
        read(tmp_path)


def test_hash_depends_on_content_order_and_borders(tmp_path):
    a, b, both, c = write(tmp_path, "a", "b", "both", "c")
    for path, text in ((a, "one"), (b, "two"), (both, "onetwo"), (c, "one")):
        path.write_text(text, encoding="utf-8")
    assert len(corpus_hash([a])) == 64
    assert corpus_hash([a]) == corpus_hash([c])
    assert len({corpus_hash(paths) for paths in ([a], [b], [a, b], [b, a], [both])}) == 5


# The Verdict


def test_the_verdict_is_the_text_of_the_notes(figures, verdict):
    golden = figures["text"]
    (path,) = resolve_corpus("the-verdict")
    assert path.name == golden["file"]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == golden["sha256"]
    assert read_document(path) == verdict
    assert len(verdict) == golden["characters"]


def test_the_expected_hash_is_that_of_the_notes(figures):
    assert figures["text"]["sha256"] == VERDICT_SHA256
    assert KNOWN_CORPORA["the-verdict"] == figures["text"]["file"]


@pytest.fixture
def absent(monkeypatch, tmp_path):
    """Where The Verdict would be downloaded to, under a file name that the repository does not have."""
    monkeypatch.setitem(KNOWN_CORPORA, "the-verdict", "not-here.txt")
    return tmp_path / "data" / "not-here.txt"


def serve(monkeypatch, content):
    """Answer downloads with these bytes, or raise them."""
    asked = []

    def urlopen(url, *args, **kwargs):
        asked.append(url)
        if isinstance(content, Exception):
            raise content
        return io.BytesIO(content)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


@pytest.mark.parametrize("error", [urllib.error.URLError("no network"), TimeoutError("timed out")])
def test_offline_says_where_to_put_the_file(monkeypatch, absent, error):
    asked = serve(monkeypatch, error)
    with pytest.raises(DataError) as caught:
        resolve_corpus("the-verdict", absent.parent)
    message = str(caught.value)
    assert asked == [VERDICT_URL]
    assert VERDICT_URL in message
    assert repr(str(absent)) in message
    assert "\n" not in message
    assert not absent.parent.exists()


def test_a_damaged_download_is_not_kept(monkeypatch, absent):
    serve(monkeypatch, b"<html>404</html>")
    with pytest.raises(DataError, match=f"(?i)expected SHA-256 {VERDICT_SHA256}, got "):
        resolve_corpus("the-verdict", absent.parent)
    assert not absent.parent.exists()


def test_a_good_download_is_kept_and_used_again(monkeypatch, absent):
    content = b"the right text"
    monkeypatch.setattr("llm.data.reading.corpus.VERDICT_SHA256", hashlib.sha256(content).hexdigest())
    asked = serve(monkeypatch, content)
    for _ in range(2):
        assert resolve_corpus("the-verdict", absent.parent) == [absent]
    assert len(asked) == 1
    assert absent.read_bytes() == content
    assert list(absent.parent.iterdir()) == [absent]


def test_a_download_that_cannot_be_written(monkeypatch, absent):
    content = b"the right text"
    monkeypatch.setattr("llm.data.reading.corpus.VERDICT_SHA256", hashlib.sha256(content).hexdigest())
    serve(monkeypatch, content)
    absent.parent.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(DataError, match=r"can't write .*not-here\.txt"):
        resolve_corpus("the-verdict", absent.parent)


def test_another_text_under_its_name_is_refused_and_left_alone(monkeypatch, absent):
    asked = serve(monkeypatch, b"")
    write(absent.parent, absent.name, text="something else")
    with pytest.raises(DataError, match=f"not The Verdict: expected SHA-256 {VERDICT_SHA256}"):
        resolve_corpus("the-verdict", absent.parent)
    assert absent.read_text(encoding="utf-8") == "something else"
    assert asked == []


def test_the_story_is_in_the_repository():
    (path,) = resolve_corpus("story")
    assert path.resolve() == Path(__file__).resolve().parents[3] / "data" / "story.txt"
    assert len(read_document(path)) > 10_000
