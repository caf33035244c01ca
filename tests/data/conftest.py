"""What several tests of data need."""

import numpy as np
import pytest

from llm.data.tokens.mapped import MappedTokens


@pytest.fixture(scope="session")
def many_tokens(tmp_path_factory):
    """400,000 ids on disk."""
    path = tmp_path_factory.mktemp("tokens") / "ids"
    np.arange(400_000).astype(np.uint16).tofile(path)
    return MappedTokens((path,), (400_000,), np.dtype(np.uint16), 0, 0, 400_000)
