import gzip
import json
import re
import tracemalloc

import pytest
import regex
import tiktoken_ext.openai_public
from hypothesis import given, settings
from hypothesis import strategies as st

from llm.config import TokenizerConfig
from llm.data.reading.sources import Position, last_cut, read_chunks
from llm.errors import DataError
from llm.tokenizers import END_OF_TEXT, BPETokenizer, Tokenizer, build_tokenizer

GPT2 = BPETokenizer()
PIECES = [
    *("a", "Zed", "é", "ß", "猫", "ก", "\u0301", "ǅ", "1", "23", "½", "Ⅷ", "'s", "'RE", "'", ".", "--", "/", "_", "😀"),
    *(
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        "\u00a0",
        "\u2003",
        "\x1c",
        "。",
        "，",
        "、",
        END_OF_TEXT,
        "<|",
        "|>",
    ),
]
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.characters(codec="utf-8")), max_size=30).map("".join)


def parts(text, cuts):
    """A text cut at every place where it may be cut."""
    found = []
    while index := last_cut(text, cuts):
        found.append(text[index:])
        text = text[:index]
    return [text, *reversed(found)]


# Cutting


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("one two three", 7),
        ("one two3 4", 8),
        ("one two. 4", 3),
        ("one. Two", 0),
        ("one\ntwo", 3),
        ("one \n two", 3),
        (" one", 0),
        ("one", 0),
        ("", 0),
        ("猫が座った。猫", 0),
    ],
)
def test_a_text_is_cut_before_white_space_that_follows_a_letter_or_digit(text, index):
    assert last_cut(text, " \n") == index


def test_chinese_is_cut_before_its_punctuation_too():
    assert last_cut("猫が座った。猫", GPT2.cuts) == 5
    assert GPT2.encode("猫が座った") + GPT2.encode("。猫") == GPT2.encode("猫が座った。猫")


@settings(max_examples=200)
@given(TEXT)
def test_the_ids_of_the_parts_are_those_of_the_whole(text):
    for kind in ("gpt2", "word", "char"):
        tokenizer = build_tokenizer(TokenizerConfig(kind), [text])
        cut = parts(text, tokenizer.cuts)
        assert "".join(cut) == text
        assert [token for part in cut for token in tokenizer.encode(part)] == tokenizer.encode(text), cut
        assert [token for part in cut for token in tokenizer.encode_array(part).tolist()] == tokenizer.encode(text)


def test_a_tokenizer_that_promises_nothing_is_never_cut():
    assert Tokenizer.cuts == ""
    assert parts("one two three", Tokenizer.cuts) == ["one two three"]


@pytest.fixture(scope="module")
def patterns():
    """How tiktoken's encodings split a text, without the vocabularies that it would download."""
    with pytest.MonkeyPatch.context() as patch:
        for loader in ("load_tiktoken_bpe", "data_gym_to_mergeable_bpe_ranks"):
            patch.setattr(tiktoken_ext.openai_public, loader, lambda *args, **kwargs: {})
        constructors = tiktoken_ext.openai_public.ENCODING_CONSTRUCTORS
        return {regex.compile(make()["pat_str"]) for make in constructors.values()}


@settings(max_examples=200)
@given(TEXT)
def test_every_pattern_of_tiktokens_splits_the_parts_like_the_whole(patterns, text):
    assert len(patterns) == 3
    cut = parts(text, GPT2.cuts)
    for pattern in patterns:
        assert [piece for part in cut for piece in pattern.findall(part)] == pattern.findall(text), cut


# Text files


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content)
    return path


@given(TEXT.filter(lambda text: text.strip() and "\0" not in text), st.integers(1, 40))
def test_chunks_joined_are_the_text_and_reading_goes_on_from_each(tmp_path_factory, text, block_bytes):
    path = write(tmp_path_factory.getbasetemp(), "any.txt", text.encode())
    chunks = list(read_chunks([path], " \n", block_bytes=block_bytes))
    read = "".join(text for chunk in chunks for text in chunk.texts)
    assert read == text.removeprefix("\ufeff").replace("\r\n", "\n")
    assert [chunk.continues for chunk in chunks] == [False] + [True] * (len(chunks) - 1)
    assert chunks[-1].after == Position(1, 0)
    for number, chunk in enumerate(chunks):
        assert list(read_chunks([path], " \n", start=chunk.after, block_bytes=block_bytes)) == chunks[number + 1 :]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"word " * 40 + b"\xe9 noir", "byte 0xe9 at offset 200"),
        (("猫 " * 50).encode() + b"\xff", "byte 0xff at offset 200"),
        (b"word " * 40 + b"\xe7\x8c", "byte 0xe7 at offset 200.*unexpected end"),
        (("猫 " * 50).encode() + b"a\0", "NUL byte at offset 201"),
        (b" \n" * 100, "empty: 200 bytes"),
    ],
)
def test_what_is_wrong_is_placed_to_the_byte_in_any_chunk(tmp_path, content, message):
    path = write(tmp_path, "bad.txt", content)
    for block_bytes in (16, 10**6):
        with pytest.raises(DataError, match=rf"bad\.txt.*{message}"):
            list(read_chunks([path], " \n", block_bytes=block_bytes))


def test_a_text_without_a_place_to_cut_comes_whole(tmp_path):
    path = write(tmp_path, "a.txt", b"1" * 1000)
    (chunk,) = read_chunks([path], " \n", block_bytes=10)
    assert chunk.texts == ["1" * 1000]


# Records


RECORDS = [
    {"text": "one\r\ntwo", "n": 1},
    {"text": " "},
    {"text": "Ça\u2028va 猫"},
    {"text": "x" * 100},
    {"text": "end"},
]
LINES = b"\n".join(json.dumps(record).encode() for record in RECORDS)
TEXTS = ["one\r\ntwo", "Ça\u2028va 猫", "x" * 100, "end"]


def compressed(name):
    if name.endswith(".gz"):
        return gzip.compress(LINES[:50]) + gzip.compress(LINES[50:])
    if name.endswith(".zst"):
        zstandard = pytest.importorskip("zstandard")
        compress = zstandard.ZstdCompressor().compress
        return compress(LINES[:50]) + compress(LINES[50:])
    return LINES + b"\n\n"


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst"])
@pytest.mark.parametrize("block_bytes", [1, 20, 1000])
def test_records_are_documents_and_empty_ones_are_left_out(tmp_path, name, block_bytes):
    path = write(tmp_path, name, compressed(name))
    chunks = list(read_chunks([path], " \n", block_bytes=block_bytes))
    assert [text for chunk in chunks for text in chunk.texts] == TEXTS
    assert [place for chunk in chunks for place in chunk.places] == [1, 3, 4, 5]
    assert not any(chunk.continues for chunk in chunks)
    for number, chunk in enumerate(chunks):
        rest = list(read_chunks([path], " \n", start=chunk.after, block_bytes=block_bytes))
        assert [chunk.texts for chunk in rest] == [chunk.texts for chunk in chunks[number + 1 :]]


def parquet(path, columns, **options):
    pyarrow = pytest.importorskip("pyarrow")
    pyarrow.parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow.parquet.write_table(pyarrow.table(columns), path, **options)
    return path


@pytest.mark.parametrize("block_bytes", [1, 20, 1000])
def test_columns_of_parquet(tmp_path, block_bytes):
    columns = {"text": [*TEXTS, None, "", "more"], "n": list(range(7))}
    path = parquet(tmp_path / "a.parquet", columns, row_group_size=2)
    chunks = list(read_chunks([path], block_bytes=block_bytes))
    assert [text for chunk in chunks for text in chunk.texts] == [*TEXTS, "more"]
    assert [place for chunk in chunks for place in chunk.places] == [1, 2, 3, 4, 7]
    for number, chunk in enumerate(chunks):
        rest = list(read_chunks([path], start=chunk.after, block_bytes=block_bytes))
        assert [chunk.texts for chunk in rest] == [chunk.texts for chunk in chunks[number + 1 :]]
    with pytest.raises(DataError, match=r"a\.parquet': no column 'body'; it has text, n"):
        list(read_chunks([path], field="body"))
    with pytest.raises(DataError, match=r"row 1: column 'n' must hold text, got '0'"):
        list(read_chunks([path], field="n"))
    with pytest.raises(DataError, match=r"b\.parquet' can't be read as Parquet"):
        list(read_chunks([write(tmp_path, "b.parquet", b"no parquet")]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": "b"', r"line 2: not JSON: .*each line must hold one record"),
        (b'{"text": "a"}\n\n["b"]', r"line 3: expected a record such as {'text': ...}, got \"\['b'\]\""),
        (b'{"text": "a"}\n{"body": "b", "id": 3}', r"line 2: no field 'text'; the record has body, id \(--field\)"),
        (b'{"text": "a"}\n{"text": 3}', r"line 2: field 'text' must hold text, got '3'"),
        (b'{"text": "a"}\n{"text": "caf\xe9"}', r"line 2: byte 0xe9 at column 14 is not UTF-8"),
        (b"[" * 100_000, r"line 1: the record is nested too deep"),
        (b"\n\n", r"is empty: no record has text in 'text'"),
    ],
)
def test_bad_lines_are_named(tmp_path, content, message):
    path = write(tmp_path, "bad.jsonl", content)
    with pytest.raises(DataError, match=message) as caught:
        list(read_chunks([path]))
    assert "bad.jsonl" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst"])
def test_damaged_archives(tmp_path, name):
    content = compressed(name)
    cut_at_a_line = gzip.compress(LINES[:50]) + gzip.compress(LINES[50:] + b"\n")[:-4]
    if name.endswith(".zst"):
        zstandard = pytest.importorskip("zstandard")
        whole = zstandard.ZstdCompressor(write_checksum=True).compress(LINES)
        cut_at_a_line = whole[:-4]
        assert list(zstandard.ZstdDecompressor().stream_reader(whole[:-4]).read()) == list(LINES)
    for bad in (content[:-9], cut_at_a_line, b"not compressed", content[:20] + b"\xff" * 20 + content[40:]):
        with pytest.raises(DataError, match=re.escape(name)):
            list(read_chunks([write(tmp_path, name, bad)]))


def test_an_archive_that_unpacks_to_gigabytes_takes_no_memory(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    with (tmp_path / "a.jsonl.zst").open("wb") as file, zstandard.ZstdCompressor().stream_writer(file) as writer:
        writer.write(b'{"text": "one"}\n')
        for _ in range(60):
            writer.write(b"\n" + b" " * (16 << 20))
    assert (tmp_path / "a.jsonl.zst").stat().st_size < 1 << 17, "one block of what is read at once"
    tracemalloc.start()
    (chunk,) = read_chunks([tmp_path / "a.jsonl.zst"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert chunk.texts == ["one"]
    assert peak < 128 << 20


def test_an_archive_with_a_long_window_is_not_called_damaged(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    compressor = zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=30))
    stream = compressor.compressobj()  # which does not know how little will come
    path = write(tmp_path, "a.jsonl.zst", stream.compress(b'{"text": "one"}') + stream.flush())
    with pytest.raises(DataError, match=r"--long.* unpack it first: zstd -d --long=31"):
        list(read_chunks([path]))


@pytest.mark.parametrize("name", ["A.JSONL", "a.Jsonl.GZ"])
def test_names_in_capitals_are_no_other_format(tmp_path, name):
    content = gzip.compress(LINES) if name.endswith("GZ") else LINES
    (chunk,) = read_chunks([write(tmp_path, name, content)])
    assert chunk.texts == TEXTS


def test_a_column_that_is_no_text_after_all(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    buffers = [None, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pyarrow.py_buffer(b"a\xff")]
    path = parquet(tmp_path / "a.parquet", {"text": pyarrow.Array.from_buffers(pyarrow.string(), 2, buffers)})
    with pytest.raises(DataError, match=r"a\.parquet', row 2: column 'text' is not UTF-8"):
        list(read_chunks([path]))


@pytest.mark.parametrize(("name", "module"), [("a.jsonl.zst", "zstandard"), ("a.parquet", "pyarrow")])
def test_a_missing_package_is_named(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(DataError, match=f"needs {module}; install it: pip install {module}"):
        list(read_chunks([write(tmp_path, name, b"x")]))
