import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llm.runtime import waiting
from llm.runtime.process import usable_cores

ROOT = Path(__file__).parents[2]
needs_counts = pytest.mark.skipif(not waiting.waits_for_cores(), reason="/proc/self/task/*/schedstat is not there")

TWO_THREADS = """
import os, subprocess, sys, threading, time
import llm, torch
from llm.runtime import waiting
from llm.runtime.process import usable_cores

def cores_of_a_pause():
    "What the threads of a computation take of the processors while the main one sleeps for 2 ms."
    numbers = torch.ones(1 << 17)
    numbers.exp()
    start = time.process_time()
    for _ in range(100):
        numbers.exp()
        time.sleep(0.002)
    return time.process_time() - start

def helpers():
    return [each.name for each in threading.enumerate() if each.name == "short-waits"]

torch.set_num_threads(2)
"""


def run(code: str, **environment: str) -> list[str]:
    own = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    variables = {name: value for name, value in os.environ.items() if name not in own}
    variables |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "2", **environment}
    command = [sys.executable, "-c", TWO_THREADS + code]
    return subprocess.run(command, env=variables, capture_output=True, text=True, check=True).stdout.split()


needs_two_cores = pytest.mark.skipif(usable_cores() < 2, reason="OpenMP threads never spin on one core")


@needs_counts
@needs_two_cores
def test_short_waits_let_threads_sleep_and_their_end_lets_them_spin_again():
    code = """
short = waiting.ShortWaits(usable_cores())
for on in (False, True, False):
    short.switch(on)
    print(cores_of_a_pause(), len(helpers()), torch.get_num_threads())
"""
    words = run(code, GOMP_SPINCOUNT="300000")  # a user's own, so that nothing else switches
    (spinning, none, team), (asleep, some, same_team), (again, gone, _) = (words[i : i + 3] for i in (0, 3, 6))
    assert float(asleep) < 0.5 * min(float(spinning), float(again))
    assert (none, gone) == ("0", "0")
    assert int(some) >= 1
    assert team == same_team == "2"


@needs_counts
@needs_two_cores
def test_a_result_stays_to_the_bit():
    code = """
from llm import GPT, GPTConfig

def trained():
    torch.manual_seed(0)
    model = GPT(GPTConfig(300, 32, n_layer=2, n_head=4, n_embd=128))
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(4):
        ids = torch.randint(300, (16, 33))
        logits = model(ids[:, :-1])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([each.detach().flatten() for each in model.parameters()])

short = waiting.ShortWaits(usable_cores())
spinning = trained()
short.switch(True)
asleep = trained()
print(bool(helpers()), torch.equal(spinning, asleep), torch.get_num_threads())
"""
    assert run(code, GOMP_SPINCOUNT="300000") == ["True", "True", "2"]


@needs_counts
@needs_two_cores
def test_threads_sleep_soon_beside_busy_programs():
    code = """
numbers = torch.ones(1 << 20)
busy = "import time; end = time.monotonic() + 30\\nwhile time.monotonic() < end: pass"
loops = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2 * usable_cores())]
end = time.monotonic() + 20
while not helpers() and time.monotonic() < end:
    numbers.exp()
print(len(helpers()) > 0)
for each in loops:
    each.kill()
    each.wait()
"""
    assert run(code) == ["True"]


def test_a_crowd_comes_at_once_and_has_gone_after_two_calm_looks():
    crowd = waiting.Crowd()
    fractions = [0.0, 0.3, 1.0, 0.24, 0.2, 0.1, 0.2, 0.1, 0.1, 0.3, 0.36]
    assert [crowd.look(fraction) for fraction in fractions] == [False] * 2 + [True] * 6 + [False] * 2 + [True]


@needs_counts
@pytest.mark.parametrize(("threads", "cores", "n_teams"), [(1, 2, 0), (2, 2, 1), (2, 4, 3), (2, 200, 0)])
def test_there_are_as_many_idle_teams_as_it_takes_and_not_too_many(threads, cores, n_teams):
    code = f"""
torch.set_num_threads({threads})
short = waiting.ShortWaits({cores})
for on in (True, True, False):
    short.switch(on)
    print(len(helpers()))
"""
    assert run(code, GOMP_SPINCOUNT="300000") == [str(n_teams), str(n_teams), "0"]


@needs_counts
def test_a_program_that_ends_in_the_middle_of_a_switch_ends_well():
    code = """
def switch():
    short = waiting.ShortWaits(2)
    while True:
        short.switch(not short.are_on)

threading.Thread(target=switch, daemon=True).start()
time.sleep(0.05)
"""
    for _ in range(3):
        assert run(code) == []


@needs_counts
def test_nobody_looks_where_the_user_has_decided():
    code = "print(any(each.name == 'watch-cores' for each in threading.enumerate()))"
    assert run(code) == ["True"]
    assert run(code, GOMP_SPINCOUNT="7") == ["False"]
    assert run(code, OMP_WAIT_POLICY="active") == ["False"]


@needs_counts
def test_a_thread_without_a_core_is_counted():
    code = """
import os, time
from llm.runtime import waiting
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
child = os.fork()
before, end = waiting.waits_for_cores(), time.monotonic() + 0.6
while time.monotonic() < end:
    pass
if child:
    os.waitpid(child, 0)
    print(waiting.seconds_between(before, waiting.waits_for_cores()))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0.1 < float(done.stdout) < 1.2  # two programs on one core, for 0.6 s


def test_threads_that_began_or_ended_meanwhile_do_not_count():
    before, after = {"1": 10**9, "2": 10**9, "4": 0}, {"1": 3 * 10**9, "3": 10**9, "4": -1}
    assert waiting.seconds_between(before, after) == 2.0


@needs_counts
def test_looking_takes_next_to_no_time():
    start = time.process_time()
    for _ in range(20):
        waiting.waits_for_cores()
    assert (time.process_time() - start) / 20 < 0.02 * waiting.SECONDS_BETWEEN_LOOKS
