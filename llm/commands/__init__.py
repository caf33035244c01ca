"""The commands of `python -m llm`, a module each."""
