"""The page in a real browser: hover, click, keys, no error, no request."""

import json
import shutil

import pytest
import torch
from test_page import GPT2, NASTY, data_of, weights_of
from test_probe import make

import llm
from llm.config import GPTConfig

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)
TEXT = "The cat sat on the mat, and the dog sat on the log."


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("there is no chromium with chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


class Opened:
    """A page in the browser, and what a person would see of it."""

    def __init__(self, browser, page, path):
        self.browser, self.data, self.weights = browser, data_of(page), weights_of(data_of(page))
        page.save(path)
        browser.get_log("performance")
        browser.get_log("browser")
        browser.get(path.as_uri())

    def all(self, css):
        return self.browser.find_elements("css selector", css)

    def texts(self, css):
        return [element.text for element in self.all(css)]

    def hover(self, element):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).move_to_element(element).perform()

    def press(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def chosen(self):
        return next(i for i, e in enumerate(self.all(".thumb")) if e.get_attribute("aria-pressed") == "true")

    def token(self):
        return next(
            i for i, e in enumerate(self.all(".token")) if {"now", "held"} & set(e.get_attribute("class").split())
        )

    def listed(self, name):
        """(token index, weight) of a list."""
        rows = self.all(f"#{name} li")
        return [
            (int(row.find_element("tag name", "sub").text), float(row.find_element("tag name", "b").text))
            for row in rows
        ]

    def errors(self):
        return [entry["message"] for entry in self.browser.get_log("browser")]

    def requests(self):
        messages = (json.loads(entry["message"])["message"] for entry in self.browser.get_log("performance"))
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture
def opened(browser, tmp_path):
    def open_page(text=TEXT, **settings):
        config = GPTConfig(vocab_size=50257, context_length=64, n_layer=2, n_head=3, n_embd=12, **settings)
        return Opened(browser, llm.inspect((make(config), GPT2), text).page(), tmp_path / "page.html")

    return open_page


def strongest(values):
    order = sorted((index for index in range(len(values)) if values[index] > 0), key=lambda i: (-values[i], i))
    return [(index, float(f"{values[index]:.4f}")) for index in order[:8]]


def agrees(shown, expected):
    assert [index for index, _ in shown] == [index for index, _ in expected]
    for (_, value), (_, other) in zip(shown, expected, strict=True):
        assert value == pytest.approx(other, abs=1.01e-4)


@pytest.mark.parametrize("attention", ["multi_head", "causal", "self"])
def test_hover_shows_where_a_token_looks_and_who_looks_at_it(opened, attention):
    page = opened(attention=attention)
    for index in (2, 7):
        page.hover(page.all(".token")[index])
        assert page.token() == index
        weights = page.weights[page.chosen()]
        agrees(page.listed("looks"), strongest(weights[index]))
        agrees(page.listed("seen"), strongest(weights[:, index]))
    assert page.errors() == []


def test_nothing_is_asked_of_the_network(opened, tmp_path):
    page = opened(NASTY)
    page.all(".thumb")[1].click()
    page.all(".token")[1].click()
    assert page.requests() == [(tmp_path / "page.html").as_uri()]
    assert page.errors() == []


def test_a_click_holds_a_token_and_another_lets_go(opened):
    page = opened()
    tokens = page.all(".token")
    tokens[3].click()
    page.hover(tokens[6])
    assert page.token() == 3
    assert "held" in tokens[3].get_attribute("class")
    tokens[3].click()
    page.hover(tokens[6])
    assert page.token() == 6


def test_a_thumbnail_chooses_the_head_and_its_scores_stand_beside(opened):
    page = opened()
    assert len(page.all(".thumb")) == 2 * 3 + 1  # and rollout
    page.all(".thumb")[4].click()
    assert page.texts("#chosen") == ["Layer 1, head 1"]
    assert page.texts("#scores dd") == [f"{value:.3f}" for value in page.data["scores"][4]]
    page.all(".thumb")[6].click()
    assert page.texts("#chosen")[0].startswith("Attention rollout")
    assert "no explanation" in page.texts("#chosen")[0]


def test_keys_move_the_head_the_token_and_the_theme(opened):
    from selenium.webdriver import Keys

    page = opened()
    page.all(".thumb")[0].click()
    page.press(Keys.ARROW_RIGHT)
    assert page.chosen() == 1
    page.press(Keys.ARROW_DOWN)
    assert page.chosen() == 4
    page.press(Keys.ARROW_DOWN)
    assert page.chosen() == 6
    page.press(Keys.ARROW_UP, Keys.ARROW_UP)
    assert page.chosen() == 0
    page.all(".token")[4].click()
    page.press(Keys.ARROW_RIGHT)
    assert page.token() == 5
    page.press(Keys.ESCAPE)
    assert not page.all(".token.held")
    colour = "return getComputedStyle(document.body).backgroundColor"
    before = page.browser.execute_script(colour)
    page.press("t")
    assert page.browser.execute_script(colour) != before
    assert page.errors() == []


def test_the_maps_are_drawn_and_masked_cells_are_blank(opened):
    page = opened()
    pixels = page.browser.execute_script(
        "const c = document.querySelectorAll('.thumb canvas')[arguments[0]];"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)",
        1,
    )
    T = len(page.data["tokens"])
    alpha = torch.tensor(pixels).view(T, T, 4)[..., 3]
    assert torch.equal(alpha > 0, torch.ones(T, T).tril() > 0)
    page.all("#first")[0].click()
    pixels = page.browser.execute_script(
        "const c = document.querySelectorAll('.thumb canvas')[1];"
        "return Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    )
    assert torch.tensor(pixels).view(T, T, 4)[:, 0, 3].sum() == 0


def test_the_map_tells_the_weight_under_the_pointer(opened):
    from selenium.webdriver import ActionChains

    page = opened()
    canvas = page.all("#map")[0]
    page.browser.execute_script("arguments[0].scrollIntoView()", canvas)
    size = canvas.size
    # the last cell of the last row stands in the corner
    ActionChains(page.browser).move_to_element_with_offset(
        canvas, size["width"] // 2 - 4, size["height"] // 2 - 4
    ).perform()
    last = len(page.data["tokens"]) - 1
    told = page.texts("#cell")[0]
    assert f"({last}) looks at" in told
    assert float(told.rsplit(" ", 1)[1]) == pytest.approx(page.weights[page.chosen()][last, last], abs=1e-4)


def test_masked_cells_of_the_map_are_no_zeros(opened):
    """Lines stand where the mask is, with the card between them; a zero has an even colour."""
    page = opened()

    def alphas(across, down):
        """Of 8 x 8 pixels at a share of the map's width and height."""
        return page.browser.execute_script(
            "const c = document.getElementById('map');"
            "const [x, y] = [arguments[0] * c.width, arguments[1] * c.height].map((at) => Math.round(at) - 8);"
            "return Array.from(c.getContext('2d').getImageData(x, y, 8, 8).data).filter((_, i) => i % 4 === 3)",
            across,
            down,
        )

    masked, shown = alphas(1, 0.6), alphas(0.5, 1)
    assert min(masked) == 0
    assert max(masked) > 0
    assert set(shown) == {255}
    assert page.texts("#blank") == ["masked: it comes later"]
    page.all("#first")[0].click()
    assert page.texts("#blank") == ["masked: it comes later, or omitted"]


def test_nothing_is_said_of_masks_where_there_are_none(opened):
    page = opened(attention="self")
    assert not page.all("#blank")[0].is_displayed()


def test_any_text_is_shown_as_it_is_and_runs_nothing(opened):
    page = opened(NASTY)
    shown = page.browser.execute_script("return [...document.querySelectorAll('.token')].map((t) => t.textContent)")
    assert shown == page.data["tokens"]
    assert page.errors() == []


@pytest.mark.parametrize("width", [1400, 800, 380])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_wide_and_narrow_screens_light_and_dark(opened, browser, width, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    try:
        page = opened(f"{TEXT} internationalization {NASTY}")
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        for token in page.all(".token"):  # whatever the guesses, their table stays within its card
            page.browser.execute_script("arguments[0].click()", token)
            assert page.browser.execute_script(
                "const lens = document.getElementById('lens'), card = lens.closest('.card').getBoundingClientRect();"
                "return [...lens.querySelectorAll('th, td')].every((cell) => cell.scrollWidth <= cell.clientWidth"
                " && cell.getBoundingClientRect().right <= card.right)"
            )
        colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in colour.strip("rgb()").split(","))
        assert (brightness > 600) == (scheme == "light")
        assert page.errors() == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
