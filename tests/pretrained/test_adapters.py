"""Where the base of adapters is looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llm.pretrained.adapters import base_of, leave_out_base
from llm.pretrained.checkpoint import ENTRY


@pytest.mark.parametrize("name", ["gpt2", "owner/name"])
def test_a_published_base_keeps_its_name_and_a_file_has_a_whole_path(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint: dict[str, Any] = {"state_dict": {}, ENTRY: {}}
    leave_out_base(checkpoint, {}, name)
    assert base_of(checkpoint, "x.ckpt") == name
    Path(name).mkdir(parents=True)  # a folder of that name is what a run reads
    leave_out_base(checkpoint, {}, name)
    assert base_of(checkpoint, "x.ckpt") == str(tmp_path / name)
