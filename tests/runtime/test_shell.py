import shlex
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from llm.runtime.shell import command_line


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), min_size=1))
def test_a_shell_reads_the_same_words(words):
    assert shlex.split(command_line(*words)) == words


def test_paths_are_words():
    assert command_line("ls", Path("a b")) == "ls 'a b'"
