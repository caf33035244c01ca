import pytest

from llm.errors import reason_of


@pytest.mark.parametrize(
    ("message", "figure"),
    [
        (
            "Storage size calculation overflowed with sizes=[3000000000, 1000000000]",
            "a tensor of 3,000,000,000 x 1,000,000,000 values would take 12,000,000 TB in float32",
        ),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 40000000000 bytes.", "40.00 GB more"),
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has ...", "2.50 GiB more"),
    ],
)
def test_memory_that_is_not_there_is_said_in_figures(message, figure):
    reason = reason_of(RuntimeError(message))
    assert reason.startswith(f"there is not enough memory: {figure}")
    assert reason.endswith("use a smaller model, batch_size or context_length")
