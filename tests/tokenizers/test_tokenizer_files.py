"""A tokenizer alone in a file."""

import pytest

from llm.errors import TokenizerError
from llm.pretrained import read_tokenizer
from llm.tokenizers import BPETokenizer, CharTokenizer
from llm.tokenizers.files import read_tokenizer_file, write_tokenizer_file


def test_a_tokenizer_is_written_and_read(tmp_path):
    for tokenizer in (CharTokenizer.from_text("é猫a", ("<s>",)), BPETokenizer()):
        write_tokenizer_file(tokenizer, tmp_path / "new" / "tok.json")
        assert read_tokenizer_file(tmp_path / "new" / "tok.json") == tokenizer
        assert read_tokenizer(tmp_path / "new" / "tok.json") == tokenizer


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"kind": "none"}', b"\xff", b"[" * 100_000])
def test_what_describes_no_tokenizer(tmp_path, content):
    (tmp_path / "tok.json").write_bytes(content)
    with pytest.raises(TokenizerError, match="is not what `python -m llm tokenizer train` writes"):
        read_tokenizer(tmp_path / "tok.json")


def test_files_that_can_not_be_read_or_written(tmp_path):
    with pytest.raises(TokenizerError, match="can't read"):
        read_tokenizer(tmp_path / "missing.json")
    (tmp_path / "file").write_text("")
    with pytest.raises(TokenizerError, match="can't write"):
        write_tokenizer_file(BPETokenizer(), tmp_path / "file" / "tok.json")
