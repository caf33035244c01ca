"""Makes the pictures in docs/pictures; it measures nothing.

Trains the character model of configs/char.yaml on the sample story, or takes a checkpoint, and looks at one sentence.
The page is photographed in a headless Chromium, if there is one with its chromedriver.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image

import llm
from llm.cli.main import main as train
from llm.inspection import Report
from llm.inspection.colours import to_png

ROOT = Path(__file__).parent.parent
TEXT = "The old man took the boat out in the morning, and the old man "
STEPS = 1500


def main() -> None:
    """Train if need be, and write every picture."""
    parser = argparse.ArgumentParser("python -m bench.pictures", description=__doc__)
    parser.add_argument("--ckpt", help="a checkpoint; default: train one")
    parser.add_argument("--out", type=Path, help=f"folder ({ROOT / 'docs' / 'pictures'})")
    parser.add_argument(
        "--tiny", action="store_true", help="a few steps, to see that it runs; no pictures without --out"
    )
    parser.add_argument("--json", action="store_true", help="print the names and sizes as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = arguments.out or (Path(folder, "pictures") if arguments.tiny else ROOT / "docs" / "pictures")
        checkpoint = arguments.ckpt or train_one(Path(folder), 2 if arguments.tiny else STEPS)
        report = llm.inspect(checkpoint, TEXT, tokens=32)
        out.mkdir(parents=True, exist_ok=True)
        (out / "heads.png").write_bytes(to_png(report.figure(0)))
        photograph(llm.inspect(checkpoint, TEXT), out, Path(folder))
        sizes = {str(path): path.stat().st_size for path in sorted(out.iterdir())}
    if arguments.json:
        print(json.dumps({"bytes": sizes}, indent=1))
        return
    for name, size in sizes.items():
        print(f"{name}: {size / 1000:.0f} kB")


def train_one(folder: Path, steps: int) -> str:
    """The path of a checkpoint of the character model."""
    settings = ["--trainer.max_steps", str(steps), "--trainer.logger.init_args.save_dir", str(folder)]
    status = train(["fit", "--config", str(ROOT / "configs" / "char.yaml"), *settings])
    if status:
        raise SystemExit(status)
    return str(next(folder.rglob("last.ckpt")))


def photograph(report: Report, out: Path, folder: Path) -> None:
    """Two pictures of the page, light and dark, a token held in each."""
    chromium, driver_path = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver_path is None:
        print("no chromium with chromedriver: the page is not photographed", file=sys.stderr)
        return
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", "no-first-run", "disable-sync"):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={folder / 'profile'}")
    page = folder / "page.html"
    report.page(page)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    try:
        size = {"width": 1400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        for scheme in ("light", "dark"):
            media = {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"}
            features = [{"name": name, "value": value} for name, value in media.items()]
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            driver.get(page.as_uri())
            driver.find_elements("css selector", ".token")[TEXT.index("morning") + 1].click()
            picture = folder / "picture.png"
            driver.save_screenshot(str(picture))
            Image.open(picture).convert("RGB").save(out / f"page-{scheme}.png", optimize=True)
    finally:
        driver.quit()


if __name__ == "__main__":
    main()
