"""Nothing is made on another device than the model's, and no value is waited for on the way."""

import subprocess
import sys
from pathlib import Path


def test_nothing_is_left_on_the_cpu():
    script = Path(__file__).with_name("other_device.py")
    found = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=script.parent.parent)
    assert found.stdout.strip() == "all on the device", found.stderr
