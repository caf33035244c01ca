import pytest

from llm.files import size_text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (34_512, "34.5 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (3_700_000, "3.7 MB"),
        (1_200_000_000, "1.2 GB"),
        (1_234_567_000_000, "1,234.6 GB"),
    ],
)
def test_sizes_for_people(n_bytes, text):
    assert size_text(n_bytes) == text
