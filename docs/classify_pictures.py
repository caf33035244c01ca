"""Makes the pictures of classify.md from a checkpoint: `python docs/classify_pictures.py CHECKPOINT docs/pictures`."""

from __future__ import annotations

import sys
from pathlib import Path

import llm
from llm.inspection.attribution import last_token_figure
from llm.inspection.colours import to_png

TEXT = "Hello Anna, I will not bring the bread on Monday, as you will see."


def main() -> None:
    """Write why the label is what it is, and what the last token looks at."""
    checkpoint, folder = sys.argv[1], Path(sys.argv[2])
    report = llm.inspect(checkpoint, TEXT)
    (folder / "classify-why.png").write_bytes(to_png(report.attribution()))
    (folder / "classify-last-token.png").write_bytes(to_png(last_token_figure(report.capture, report.labels)))


if __name__ == "__main__":
    main()
