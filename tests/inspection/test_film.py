"""A film has a frame for every look, in their order."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from llm.inspection.figures import montage
from llm.inspection.film import Film


def frame(step):
    weights = torch.full((2, 6, 6), 1 / 6) * (1 - step / 10) + torch.eye(6) * step / 10
    return montage([weights], False, f"step {step}")


def film_of(steps, *limits):
    film = Film(*limits)
    for step in steps:
        film.add(frame(step))
    return film


def test_the_gif_holds_the_frames_as_they_were():
    gif = Image.open(io.BytesIO(film_of(range(5)).to_gif()))
    frames = [np.asarray(picture.convert("RGB")) for picture in ImageSequence.Iterator(gif)]
    assert len(frames) == 5
    for step, picture in enumerate(frames):
        np.testing.assert_array_equal(picture, np.asarray(frame(step).convert("RGB")))


def test_the_same_frames_are_the_same_bytes():
    assert film_of(range(4)).to_gif() == film_of(range(4)).to_gif()


def test_a_long_film_keeps_its_first_and_last_frame():
    film = film_of(range(11), 4)
    assert 2 <= len(film) <= 4
    gif = Image.open(io.BytesIO(film.to_gif()))
    pictures = [np.asarray(picture.convert("RGB")) for picture in ImageSequence.Iterator(gif)]
    np.testing.assert_array_equal(pictures[0], np.asarray(frame(0).convert("RGB")))
    np.testing.assert_array_equal(pictures[-1], np.asarray(frame(10).convert("RGB")))


def test_no_film_without_a_frame():
    with pytest.raises(ValueError, match="needs a frame"):
        Film().to_gif()


def test_large_frames_are_fewer():
    width, height = frame(0).size
    assert len(film_of(range(9), 120, 9 * width * height)) == 9
    assert len(film_of(range(9), 120, 3 * width * height)) <= 3
