"""Everything is in pyproject.toml, except where the wheel's copies of `configs` and `data/story.txt` come from."""

from pathlib import Path

from setuptools import find_namespace_packages, setup

CONFIGS = [folder for folder in sorted(Path("configs").glob("**")) if any(folder.glob("*.yaml"))]
SHIPPED = {f"llm.shipped.{'.'.join(folder.parts)}": str(folder) for folder in [*CONFIGS, Path("data")]}

setup(
    packages=[*find_namespace_packages(include=["llm", "llm.*"], exclude=["*.__pycache__"]), *SHIPPED],
    package_dir=SHIPPED,
    package_data={"llm.inspection.page_files": ["*"], **{name: ["*.yaml", "story.txt"] for name in SHIPPED}},
)
