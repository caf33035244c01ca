import subprocess
import sys

import pytest

from llm.runtime.environment import SPIN_COUNT, prepare


def test_threads_wait_for_a_short_while_where_nobody_says_how_long():
    environment: dict[str, str] = {}
    prepare(environment)
    assert environment == {"THP_MEM_ALLOC_ENABLE": "1", "GOMP_SPINCOUNT": SPIN_COUNT}


@pytest.mark.parametrize(
    "given",
    [
        {"OMP_WAIT_POLICY": "ACTIVE", "THP_MEM_ALLOC_ENABLE": "0"},
        {"GOMP_SPINCOUNT": "7", "THP_MEM_ALLOC_ENABLE": "0"},
        {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7", "THP_MEM_ALLOC_ENABLE": "1"},
    ],
)
def test_what_the_user_set_stays(given):
    environment = dict(given)
    prepare(environment)
    assert environment == given


def test_it_is_set_by_the_import_alone_and_before_torch():
    code = "import llm, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [SPIN_COUNT, "False"]
