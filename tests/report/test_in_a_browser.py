"""The page in Chromium: no message on the console, the model's numbers, the keyboard, small and large windows."""

import re
import shutil
from itertools import pairwise

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import fxgrow
from fxgrow.report import write_report
from fxgrow.results import read_results

SIZES = {"desktop": (1280, 900), "tablet": (820, 1180), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # a driver that is named is not looked for on the network
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def address(folder, tmp_path_factory):
    return write_report(read_results(folder), tmp_path_factory.mktemp("page") / "report.html").as_uri()


def opened(browser, address, size="desktop", scheme="light"):
    width, height = SIZES[size]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": size == "phone"}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(address)
    return browser


def test_the_console_stays_empty_and_nothing_is_fetched(browser, address) -> None:
    opened(browser, address)
    assert browser.get_log("browser") == []
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_the_strips_in_the_document_are_the_depth_map(browser, address, grown) -> None:
    opened(browser, address)
    expected = fxgrow.depth_map(grown)
    for strip in browser.find_elements(By.CSS_SELECTOR, "svg.strip"):
        depths = [0] * int(strip.get_dom_attribute("viewBox").split()[2])
        for path in strip.find_elements(By.TAG_NAME, "path"):
            for first, width in re.findall(r"M(\d+) 0h(\d+)v1", path.get_dom_attribute("d")):
                depths[int(first) : int(first) + int(width)] = [int(path.get_dom_attribute("data-depth"))] * int(width)
        assert depths == expected[strip.get_dom_attribute("data-site")]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_sticks_out_of_the_window(browser, address, size) -> None:
    opened(browser, address, size)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= SIZES[size][0]


def test_text_stands_out_from_the_paper_by_day_and_by_night(browser, address) -> None:
    for scheme in ("light", "dark"):
        opened(browser, address, scheme=scheme)
        colours = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        ink, paper = (luminance(colour) for colour in browser.execute_script(colours))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 7, "WCAG asks for a contrast of 7"
        assert (ink > paper) == (scheme == "dark")


def test_the_depths_are_told_apart_by_lightness(browser, address) -> None:
    for scheme in ("light", "dark"):
        opened(browser, address, scheme=scheme)
        found = browser.execute_script(
            "return [...document.querySelectorAll('.key')].map(key => {"
            "const context = Object.assign(document.createElement('canvas'), {width: 1, height: 1}).getContext('2d');"
            "context.fillStyle = getComputedStyle(key).backgroundColor; context.fillRect(0, 0, 1, 1);"
            "return `rgb(${context.getImageData(0, 0, 1, 1).data.slice(0, 3).join()})`})"
        )
        steps = [luminance(colour) for colour in found]
        assert len(steps) == 3
        assert steps == sorted(steps, reverse=scheme == "light")
        ratios = [(max(pair) + 0.05) / (min(pair) + 0.05) for pair in pairwise(steps)]
        assert min(ratios) > 1.5


def test_the_keyboard_reaches_the_network_and_opens_a_table(browser, address) -> None:
    opened(browser, address)
    browser.switch_to.active_element.send_keys(Keys.TAB)
    assert browser.switch_to.active_element.text == "Skip to the network"
    browser.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#network")
    summary = browser.find_element(By.TAG_NAME, "summary")
    summary.send_keys(Keys.ENTER)
    assert summary.find_element(By.XPATH, "..").get_attribute("open")
    scrolling = browser.find_elements(By.CSS_SELECTOR, ".scroll")
    assert all(box.get_attribute("tabindex") == "0" for box in scrolling)


def test_it_prints_on_white(browser, address) -> None:
    opened(browser, address, scheme="dark")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    paper = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert luminance(paper) == pytest.approx(1)


def luminance(colour: str) -> float:
    """Return the relative luminance of ``rgb(r, g, b)``, as WCAG 2 defines it."""
    channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
