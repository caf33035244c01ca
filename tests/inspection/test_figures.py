"""The pictures show the weights, and what is masked is not zero."""

import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from llm.inspection.colours import MASKED, colours, to_image, to_png
from llm.inspection.figures import head_grid, head_maps, map_grid, montage, similarity_map
from llm.inspection.svg import svg_grid

SVG = "{http://www.w3.org/2000/svg}"


def causal_weights(H, T, seed=0):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(H, T, T, generator=random)
    return scores.masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf).softmax(-1)


def labels(T):
    return [f"·w{index}" for index in range(T)]


def pixels(image):
    return np.asarray(image)


def map_of(image, T, cell, head_left):
    """The cells of one map: a pixel from the middle of each."""
    y, x = head_left
    return pixels(image)[y + cell // 2 : y + T * cell : cell, x + cell // 2 : x + T * cell : cell]


def find_map(image, T):
    """Where the first map begins, and how large a cell is, by the masked corner of the first row."""
    masked = pixels(image) == MASKED
    row = next(y for y in range(40, len(masked)) if masked[y].sum() > 15)
    columns = np.flatnonzero(masked[row])
    cell = round((columns.max() - columns.min() + 1) / (T - 1))
    return (row, columns.min() - cell), cell


def test_the_colours_are_the_weights():
    weights = causal_weights(1, 10)
    image = head_grid(weights, labels(10), "title", causal=True, scale="linear")
    place, cell = find_map(image, 10)
    shown = map_of(image, 10, cell, place)
    visible = np.tril(np.ones((10, 10), bool))
    np.testing.assert_array_equal(shown[visible], np.rint(weights[0].numpy() * 199)[visible])
    assert (shown[~visible] == MASKED).all()


def test_masked_does_not_look_like_zero():
    image = head_grid(torch.eye(4)[None], labels(4), "title", causal=True)
    place, cell = find_map(image, 4)
    colours = np.asarray(image.convert("RGB")).astype(int)
    zero, masked = (colours[place[0] + y * cell + 3, place[1] + x * cell + 3] for y, x in ((3, 0), (0, 3)))
    assert np.abs(zero - masked).sum() > 150


def test_scales_are_fixed_and_two_show_small_weights():
    weights = torch.tensor([[[1.0, 0.0], [0.99, 0.01]]])
    place, cell = find_map(head_grid(weights, labels(2), "t", True), 2)
    small = {"linear": 2, "sqrt": 20, "log": 100}  # of 199: 0.01, its root, and half way from 0.0001 to 1
    for scale, colour in small.items():
        picture = head_grid(weights, labels(2), "t", True, scale=scale)
        assert find_map(picture, 2)[0] == place
        assert pixels(picture)[place[0] + cell + 3, place[1] + cell + 3] == colour
        assert pixels(picture)[place[0] + 3, place[1] + 3] == 199


def test_the_first_column_can_be_left_out():
    weights = torch.zeros(1, 5, 5)
    weights[:, :, 0] = 1
    with_it, without = (head_grid(weights, labels(5), "t", False, hide_first=hide) for hide in (False, True))
    bright = [(pixels(image)[60:] == 199).sum() for image in (with_it, without)]
    assert bright[0] > 0
    assert bright[1] == 0


def test_both_axes_carry_the_labels():
    values = torch.eye(4).masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), torch.nan)[None].numpy()

    def picture(rows, columns):
        return pixels(map_grid(values, ["head 0"], "t", rows, columns)).astype(int)

    plain = picture("abcd", "abcd")
    (top, left), cell = find_map(to_image(plain.astype(np.uint8)), 4)
    y, x = np.nonzero(plain - picture("abcb", "abcd"))
    assert (y >= top + 3 * cell).all()  # beside the last row
    assert (y < top + 4 * cell).all()
    assert (x < left).all()
    y, x = np.nonzero(plain - picture("abcd", "abcb"))
    assert (x >= left + 3 * cell).all()  # below the last column
    assert (x < left + 4 * cell).all()
    assert (y >= top + 4 * cell).all()


def test_wide_characters_stand_upright_below_the_columns():
    """Such as Chinese ones; shown with a sign that is as wide, and that every machine has a font for."""

    def picture(row, column):
        labels = [row, "mmmm"], [column, "mmmm"]  # so that there is the same room in all
        return pixels(map_grid(np.zeros((1, 2, 2), np.float32), ["head 0"], "t", *labels)).astype(int)

    def size_of_what_is_new(row, column):
        y, x = np.nonzero(picture(row, column) - picture(" ", " "))
        return np.array([np.ptp(y), np.ptp(x)]) + 1  # height, width

    beside, below = size_of_what_is_new("⚡", " "), size_of_what_is_new(" ", "⚡")
    assert np.abs(below - beside).max() <= 1
    assert np.abs(below - beside[::-1]).max() > 1, "else it might be rotated"
    assert (size_of_what_is_new(" ", "⚡⚡") - below).tolist() == [12, 0]


@pytest.mark.parametrize(("H", "T"), [(1, 1), (1, 1024), (12, 300), (25, 256), (48, 128)])
def test_no_picture_is_larger_than_a_megabyte(H, T):
    noise = torch.rand(H, T, T, generator=torch.Generator().manual_seed(0))
    assert len(to_png(head_grid(noise, labels(T), "t", causal=False))) < 1_000_000


def test_a_cropped_picture_says_so():
    def picture(T):
        return head_grid(torch.zeros(8, T, T), labels(T), "t", False)

    shown = 250  # isqrt(500,000 / 8)
    assert picture(shown).size == picture(400).size
    assert to_png(picture(shown)) != to_png(picture(400))


def test_the_same_weights_are_the_same_bytes_without_metadata():
    first, second = (to_png(head_grid(causal_weights(3, 9), labels(9), "t", True)) for _ in range(2))
    assert first == second
    image = Image.open(io.BytesIO(first))
    assert image.format == "PNG"
    assert not image.info.keys() - {"transparency"}


def test_as_many_labels_as_tokens():
    with pytest.raises(ValueError, match="expected a label for each of 3 tokens, got 2"):
        head_grid(torch.eye(3)[None], ["a", "b"], "t", True)


def test_odd_labels_and_values_are_drawn():
    weights = torch.full((1, 4, 4), torch.nan)
    odd = ["$x^2$", "😀", "مرحبا", "\\frac{"]
    drawn = {to_png(head_grid(weights, odd[:i] + list("abcd")[i:], "$title$", causal=False)) for i in range(5)}
    assert len(drawn) == 5, "each label is another picture"


def test_the_montage_holds_every_head():
    maps = [causal_weights(3, 8, seed) for seed in range(2)]
    image = pixels(montage(maps, True, "step 1"))
    assert (image == MASKED).sum() == 2 * 3 * 28 * 4 * 4  # layers, heads, masked cells, pixels of a cell


def test_similarity_goes_from_minus_one_to_one():
    image = pixels(similarity_map(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]), [0, 1], "t"))
    assert {0, 199} <= set(np.unique(image[70:]))


def test_one_head_in_large_has_its_colours():
    weights = causal_weights(3, 10)
    image = head_grid(weights, labels(10), "title", causal=True, scale="linear", head=1)
    place, cell = find_map(image, 10)
    assert cell > find_map(head_grid(weights[:1], labels(10), "title", causal=True), 10)[1]
    visible = np.tril(np.ones((10, 10), bool))
    expected = np.rint(weights[1].numpy() * 199)
    np.testing.assert_array_equal(map_of(image, 10, cell, place)[visible], expected[visible])


def test_a_head_that_is_not_there():
    with pytest.raises(ValueError, match="no head 3: this layer has 3"):
        head_grid(causal_weights(3, 4), labels(4), "title", causal=True, head=3)


def test_the_svg_has_a_square_of_the_right_colour_for_each_cell():
    weights = causal_weights(2, 5)
    svg = svg_grid(*head_maps(weights, ["<&", *labels(4)], "title", True, "linear", False))
    root = ElementTree.fromstring(svg)
    groups = [g for g in root.iter(f"{SVG}g") if g.get("transform", "").endswith("scale(16)")]
    assert len(groups) == 2
    for group, values in zip(groups, weights, strict=True):
        found = {
            (int(y), int(x)): path.get("fill")
            for path in group
            for x, y in re.findall(r"M(\d+) (\d+)h1v1h-1z", path.get("d"))
        }
        assert len(found) == 25
        for (row, column), colour in found.items():
            index = MASKED if column > row else round(float(values[row, column]) * 199)
            assert colour == colours()[index]
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts.count("<&") == 3  # a row label, and a column label of each head
    assert svg == svg_grid(*head_maps(weights, ["<&", *labels(4)], "title", True, "linear", False))
