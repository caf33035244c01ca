import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("selenium")


@pytest.mark.slow
def test_the_pictures_are_made(bench, tmp_path):
    output = bench("pictures", "--tiny", "--json", "--out", str(tmp_path))
    sizes = json.loads(output)["bytes"]
    browser = shutil.which("chromium") and shutil.which("chromedriver")
    expected = ["heads.png", *(["page-dark.png", "page-light.png"] if browser else [])]
    assert [Path(name).name for name in sizes] == expected
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
