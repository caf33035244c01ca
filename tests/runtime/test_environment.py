import subprocess
import sys

import pytest

from llm.runtime import environment as environment_of_threads
from llm.runtime.environment import SPIN_COUNT, prepare


@pytest.mark.parametrize(("can_watch", "count"), [(True, None), (False, SPIN_COUNT)])
def test_threads_wait_for_a_short_while_where_nobody_says_how_long_and_nothing_can_be_watched(
    monkeypatch, can_watch, count
):
    monkeypatch.setattr(environment_of_threads, "watch", lambda: can_watch)
    environment: dict[str, str] = {}
    prepare(environment)
    assert environment.pop("THP_MEM_ALLOC_ENABLE") == "1"
    assert environment.get("GOMP_SPINCOUNT") == count


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
    code = "import llm, os, sys; print(os.environ['THP_MEM_ALLOC_ENABLE'], 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
