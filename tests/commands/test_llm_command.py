import shlex

import pytest

from llm.__main__ import main


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_commands_of_training_are_named_with_their_script(command, capsys):
    assert main([command, "--data.corpus", "my text.txt"]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.count("\n") == 1
    told = shlex.split(err.rpartition(": use ")[2])
    assert told == ["python", "train.py", command, "--data.corpus", "my text.txt"]


def test_help_names_what_trains(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "python train.py fit" in " ".join(capsys.readouterr().out.split())
