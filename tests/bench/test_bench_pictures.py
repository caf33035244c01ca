import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("selenium")


@pytest.mark.slow
def test_the_pictures_are_made(tmp_path):
    command = [sys.executable, "-m", "bench.pictures", "--tiny", "--json", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    sizes = json.loads(done.stdout)["bytes"]
    browser = shutil.which("chromium") and shutil.which("chromedriver")
    expected = ["heads.png", *(["page-dark.png", "page-light.png"] if browser else [])]
    assert [Path(name).name for name in sizes] == expected
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
