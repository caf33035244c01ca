"""What a benchmark that runs in this process changes is as it was afterwards."""

import logging

import pytest


@pytest.fixture(autouse=True)
def levels_as_before():
    loggers = [logging.getLogger(name) for name in ("llm", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)
