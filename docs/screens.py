"""Pictures of TensorBoard on a run, in a real browser: `python docs/screens.py runs/gpt docs/pictures`.

Each of the tabs, or those that are named behind (`python docs/screens.py runs/lr docs/pictures hparams`), as it opens,
but for this: no smoothing, images in their own size. Chromium, chromedriver and selenium are needed.
"""

from __future__ import annotations

import io
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from PIL import Image

SIZES = {"hparams": (1600, 330), "text": (1280, 620), "custom-scalars": (1280, 780)}
SIZE = (1280, 800)
"""Width and height of a picture, of these tabs and of the others."""
FLAGS = ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars")
SECONDS = 60.0
TABS = {
    "time-series": "?smoothing=0#timeseries",
    "custom-scalars": "#custom_scalars&_smoothingWeight=0",
    "images": "#images",
    "text": "#text",
    "hparams": "#hparams",
}
"""The address of each tab."""
CLICK = """
const all = (root) => [...root.querySelectorAll('*')].flatMap((e) => [e, ...(e.shadowRoot ? all(e.shadowRoot) : [])]);
all(document).find((e) => e.matches(arguments[0]) && e.innerText.includes(arguments[1])).click();
"""
"""Clicks on what has a text; TensorBoard's tabs keep theirs from being found from outside."""


@contextmanager
def tensorboard(logdir: str) -> Iterator[str]:
    """TensorBoard on a folder of runs; gives its address."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", logdir, "--port", str(port)]
    process = subprocess.Popen([*command, "--samples_per_plugin", "images=100,text=100"], stderr=subprocess.DEVNULL)
    address = f"http://localhost:{port}"
    try:
        end = time.monotonic() + SECONDS
        while True:
            try:
                urlopen(f"{address}/data/runs").close()
                break
            except OSError:
                if time.monotonic() > end or process.poll() is not None:
                    raise SystemExit(f"TensorBoard does not answer at {address}") from None
                time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait()


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without a window, and without a profile that stays."""
    from selenium import webdriver

    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if binary is None or driver is None:
        raise SystemExit("chromium and chromedriver are needed (on Debian and Ubuntu: apt install chromium-driver)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = binary
        for flag in (*FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
        try:
            yield browser
        finally:
            browser.quit()


def settled(browser: Any, size: tuple[int, int]) -> Image.Image:
    """The screen, once it stays the same for two seconds."""
    end, before = time.monotonic() + SECONDS, b""
    while True:
        time.sleep(2.0)
        now = browser.get_screenshot_as_png()
        if now == before or time.monotonic() > end:
            return Image.open(io.BytesIO(now)).convert("RGB").crop((0, 0, *size))
        before = now


def main(logdir: str, out: str, *tabs: str) -> None:
    """Write a picture of each tab, `tensorboard-images.png` and so on."""
    with tensorboard(logdir) as address, chromium() as browser:
        for tab in tabs or TABS:
            size = SIZES.get(tab, SIZE)
            browser.set_window_size(size[0], 1000)
            browser.get("about:blank")
            browser.get(f"{address}/{TABS[tab]}")
            time.sleep(5.0)
            settled(browser, size)
            if tab == "images":
                browser.execute_script(CLICK, "paper-checkbox", "Show actual image size")
            if tab == "time-series":
                browser.execute_script(CLICK, "button", "Settings")
            path = Path(out) / f"tensorboard-{tab}.png"
            settled(browser, size).quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
            print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    if len(sys.argv) < 3 or not TABS.keys() >= set(sys.argv[3:]):
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
