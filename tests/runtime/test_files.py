"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llm.runtime.files import keeping, remove_stale, size_text, temporary_for, whole_file, write_whole


def test_a_file_is_there_when_it_is_whole(tmp_path):
    target = tmp_path / "x"
    write_whole(target, b"before")

    def fail():
        with whole_file(target) as file:
            file.write(b"half")
            assert target.read_bytes() == b"before"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_what_is_replaced_is_kept(tmp_path):
    target, previous = tmp_path / "last", tmp_path / "previous"
    for content in (b"1", b"2", b"3"):
        with keeping(target, previous):
            write_whole(target, content)
    assert (target.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    with pytest.raises(RuntimeError), keeping(target, previous):
        raise RuntimeError
    assert (target.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    assert len(list(tmp_path.iterdir())) == 2


def test_it_is_kept_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    target, previous = tmp_path / "last", tmp_path / "previous"
    for content in (b"1", b"2"):
        with keeping(target, previous):
            write_whole(target, content)
    assert (target.read_bytes(), previous.read_bytes()) == (b"2", b"1")


def test_only_what_nobody_writes_any_more_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = temporary_for(tmp_path / "x")
    dead = tmp_path / f"x.{socket.gethostname()}.{ended.pid}.tmp"
    elsewhere = tmp_path / f"x.elsewhere.{ended.pid}.tmp"
    for path in (mine, dead, elsewhere):
        path.touch()
    remove_stale(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([mine, elsewhere])
    remove_stale(tmp_path, held=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (34_512, "34.5 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_700_000, "3.7 MB"),
        (1_200_000_000, "1.2 GB"),
        (1_234_567_000_000, "1,234.6 GB"),
    ],
)
def test_sizes_for_people(n_bytes, text):
    assert size_text(n_bytes) == text


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.bin"
    write_whole(path, b"one")
    assert path.read_bytes() == b"one"

    def full(file):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, b"two")
    assert path.read_bytes() == b"one"
    assert [other.name for other in path.parent.iterdir()] == ["file.bin"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileExistsError, match="is a device or a pipe"):
        write_whole(tmp_path / "pipe", b"content")
    assert (tmp_path / "pipe").is_fifo()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["", ".", "sub"])
def test_a_folder_is_no_place_for_a_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(Path(name), b"x")
    assert [path.name for path in tmp_path.rglob("*")] == ["sub"]
