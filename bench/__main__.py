"""`python -m bench` lists the measurements; `python -m bench.NAME --help` says what one takes."""

import ast
from pathlib import Path


def main() -> None:
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        summary = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        print(f"python -m bench.{path.stem:<12} {summary.splitlines()[0] if summary else ''}")


if __name__ == "__main__":
    main()
