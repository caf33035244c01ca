"""The code of docs/python.md runs as it stands."""

import re
import shutil
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_every_block_runs_after_the_one_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.copy(REPOSITORY / "data" / "story.txt", tmp_path / "data")
    blocks = BLOCK.findall((REPOSITORY / "docs" / "python.md").read_text(encoding="utf-8"))
    assert len(blocks) == 4
    namespace: dict[str, object] = {"__name__": "page"}
    for block in blocks:
        exec(compile(block, "docs/python.md", "exec"), namespace)
    assert (tmp_path / "mine.ckpt").is_file()
    weights, ids = namespace["weights"], namespace["ids"]
    assert weights.shape[:2] == (1, 2)
    assert namespace["tokenizer"].decode(ids) == "The Bishop"
    assert namespace["trainer"].global_step == 20
