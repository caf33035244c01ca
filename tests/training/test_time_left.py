"""What is left of a run of even steps and even validations is known from the second step on, and falls evenly."""

import itertools

import lightning as L
import pytest

from llm.training.progress import seconds_allowed
from llm.training.time_left import TimeLeft

STEPS, EVERY, STEP, VALIDATION = 300, 60, 0.25, 10.0


def run(first_step=STEP, prior=VALIDATION, every=EVERY):
    """(step, seconds said to be left, seconds really left) of each step."""
    time, side, left = 100.0, prior, TimeLeft(every)
    said = []
    for step in range(1, STEPS + 1):
        time += first_step if step == 1 else STEP
        really = (STEPS - step) * STEP + (STEPS // EVERY - (step - 1) // EVERY) * VALIDATION
        said.append((step, left.after_step(time, step, side, STEPS), really))
        if step % EVERY == 0:
            time, side = time + VALIDATION, side + VALIDATION
            left.validated(step)
    return said


@pytest.mark.parametrize("first_step", [STEP, 20.0])
def test_it_is_right_and_does_not_jump_at_a_validation(first_step):
    said = run(first_step)
    assert said[0][1] is None
    for (_, before, _), (_, after, really) in itertools.pairwise(said[1:]):
        assert -0.01 < before - after < 3 * (STEP + VALIDATION / EVERY)
        assert after == pytest.approx(really, abs=VALIDATION + 2)
    assert said[-1][1] == 0


def test_what_validations_take_is_known_after_the_first_where_there_was_none_before():
    said = run(prior=0.0, every=None)
    assert said[EVERY - 1][1] == pytest.approx((STEPS - EVERY) * STEP)
    for _, after, really in said[EVERY:]:
        assert after == pytest.approx(really, abs=VALIDATION + 2)


def test_a_resumed_run_that_begins_with_its_validation():
    left = TimeLeft(EVERY)
    left.validated(EVERY)  # before its first step; as side work of that it is counted already
    assert left.after_step(100.0, EVERY + 1, VALIDATION, STEPS) is None
    said = left.after_step(100.0 + STEP, EVERY + 2, VALIDATION, STEPS)
    assert said == pytest.approx((STEPS - EVERY - 2) * (STEP + VALIDATION / EVERY))


@pytest.mark.parametrize(("limit", "seconds"), [("00:00:00:12", 12.0), (None, None)])
def test_a_time_limit_says_when_a_run_ends(tmp_path, limit, seconds):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = L.Trainer(accelerator="cpu", max_time=limit, max_steps=10**8, default_root_dir=tmp_path, **quiet)
    assert seconds_allowed(trainer) == seconds
