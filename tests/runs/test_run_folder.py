"""Which checkpoint is the newest whole one, and who holds a folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llm.errors import CheckpointError, ConfigError
from llm.pretrained.checkpoint import VERSION, write_checkpoint
from llm.runs.newest import NoCheckpointError, checkpoint_to_go_on_from, newest_checkpoint
from llm.runs.run_folder import locked

EMPTY = {"llm": {"version": VERSION}, "state_dict": {}}


def write(path: Path, time: int, content: bytes | None = None) -> Path:
    write_checkpoint(EMPTY, path)
    if content is not None:
        path.write_bytes(content)
    os.utime(path, (time, time))
    return path


def test_the_newest_checkpoint_is_that_of_the_newest_run(tmp_path):
    write(tmp_path / "old" / "last.ckpt", 1)
    newest = write(tmp_path / "new" / "last.ckpt", 2)
    for folder in ("link", "pipe"):
        (tmp_path / folder).mkdir()
    (tmp_path / "link" / "last.ckpt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe" / "last.ckpt")
    assert newest_checkpoint(tmp_path) == newest


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short"])
def test_where_the_newest_is_damaged_the_one_before_it_is_used(tmp_path, caplog, content):
    previous = write(tmp_path / "previous.ckpt", 1)
    last = write(tmp_path / "last.ckpt", 2, content)
    with caplog.at_level("WARNING", "llm"):
        assert newest_checkpoint(tmp_path) == previous
    previous.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"last\.ckpt.*previous\.ckpt' is empty"):
        newest_checkpoint(tmp_path)
    last.unlink()
    with pytest.raises(CheckpointError, match=r"there is no '.*last\.ckpt'"):
        newest_checkpoint(tmp_path)


def test_another_run_is_never_taken_for_the_newest(tmp_path):
    write(tmp_path / "old" / "checkpoints" / "last.ckpt", 1)
    write(tmp_path / "new" / "checkpoints" / "last.ckpt", 2, b"")
    with pytest.raises(CheckpointError, match="no checkpoint of the newest run is whole"):
        newest_checkpoint(tmp_path)


def test_a_run_without_a_checkpoint_is_not_an_older_run(tmp_path):
    with pytest.raises(NoCheckpointError, match="there is no checkpoint"):
        checkpoint_to_go_on_from(tmp_path)
    old = write(tmp_path / "old" / "checkpoints" / "last.ckpt", 1)
    assert checkpoint_to_go_on_from(tmp_path) == old
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").touch()
    with pytest.raises(NoCheckpointError, match=r"before its first checkpoint.*old"):
        checkpoint_to_go_on_from(tmp_path)


def test_a_folder_is_held_by_one_process(tmp_path):
    folder = tmp_path / "run"
    imports = "from pathlib import Path\nfrom llm.runs.run_folder import locked\n"
    script = f"{imports}with locked([Path({str(folder)!r})]): pass"
    with locked([folder]):
        other = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert f"process {os.getpid()}" in other.stderr
        (folder / "kept").touch()
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_what_is_left_half_written_is_removed(tmp_path):
    stale, other = tmp_path / "last.ckpt.elsewhere.17.tmp", tmp_path / "notes.tmp"
    stale.touch()
    other.touch()
    with locked([tmp_path]):
        assert not stale.exists()
    assert other.exists()


def test_what_a_run_beside_it_left_is_removed_once_its_process_has_ended(tmp_path):
    """A run that is killed in its first checkpoint begins again in another folder."""
    killed, going_on = tmp_path / "version_0" / "checkpoints", tmp_path / "version_2" / "checkpoints"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for folder, process in ((killed, ended.pid), (going_on, os.getpid())):
        folder.mkdir(parents=True)
        (folder / f"last.ckpt.{socket.gethostname()}.{process}.tmp").touch()
    with locked([tmp_path / "version_1", tmp_path / "version_1" / "checkpoints"]):
        assert not list(killed.iterdir())
        assert len(list(going_on.iterdir())) == 1, "another run is writing it"


def test_a_folder_that_stays_empty_is_removed(tmp_path):
    with locked([tmp_path / "a" / "b", tmp_path / "a" / "b" / "checkpoints"]):
        assert (tmp_path / "a" / "b" / "checkpoints").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't write to"), locked([tmp_path / "file" / "run"]):
        pass
