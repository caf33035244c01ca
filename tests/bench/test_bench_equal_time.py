import pytest

from bench._equal_time import WARMUP, rate


def test_the_rate_rises_to_its_peak_and_falls_to_zero():
    assert [rate(0.0), rate(WARMUP / 2), rate(WARMUP)] == pytest.approx([0.0, 0.5, 1.0], abs=1e-3)
    after = [rate(WARMUP + (1 - WARMUP) * step / 50) for step in range(51)]
    assert after == sorted(after, reverse=True)
    assert after[25] == pytest.approx(0.5)
    assert after[-1] == pytest.approx(0.0)
