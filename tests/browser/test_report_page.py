"""The report in a real browser, without network: sorts and filters on click, fits a phone."""

import shutil

import pytest
import reports

from lstm_jax.report import build_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER),
        reason="no chromium and chromedriver: apt install chromium-driver",
    ),
]
WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    _, workdir = reports.sweep(tmp_path_factory.mktemp("page"))
    return build_report(workdir)


@pytest.fixture(scope="module")
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.execute_cdp_cmd("Network.enable", {})
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", OFFLINE)
    yield driver
    driver.quit()


OFFLINE = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}


def open_page(browser, page, width, scheme):
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())
    for summary in browser.find_elements("css selector", "summary"):
        summary.click()  # what is behind a click


def column(table, index):
    return [row.text for row in table.find_elements("css selector", f"td:nth-child({index})")]


def head(table, name):
    heads = table.find_elements("css selector", "thead th")
    names = [h.text.split("\n")[0].strip(" ↑↓") for h in heads]
    return names.index(name) + 1, heads[names.index(name)]


def test_a_click_sorts(browser, page):
    open_page(browser, page, WIDTHS["desktop"], "light")
    table = browser.find_elements("css selector", "table")[-1]
    index, button = head(table, "test/loss")
    for state, order in (("ascending", 1), ("descending", -1)):
        button.find_element("css selector", "button").click()
        values = [order * float(value) for value in column(table, index)]
        assert values == sorted(values)
        assert button.get_attribute("aria-sort") == state


def test_a_click_filters_and_a_second_one_undoes_it(browser, page):
    open_page(browser, page, WIDTHS["desktop"], "light")
    box = browser.find_element("css selector", ".table")
    table = box.find_element("css selector", "table")
    index, _ = head(table, "word")
    everything = column(table, index)
    chip = next(c for c in box.find_elements("css selector", ".tools button") if c.text == "worse")
    chip.click()
    assert [v for v in column(table, index) if v] == ["worse"]
    assert "1 of 3 rows" in box.text
    chip.click()
    assert column(table, index) == everything


def test_typing_filters(browser, page):
    open_page(browser, page, WIDTHS["desktop"], "light")
    box = browser.find_elements("css selector", ".table")[-1]
    box.find_element("css selector", "input").send_keys("NFG")
    assert "15 of 45 rows" in box.text


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_fits_and_can_be_read(browser, page, width, scheme):
    """Nothing is wider than the window, nothing fails, ink and paper are apart."""
    open_page(browser, page, width, scheme)
    root = "document.documentElement"
    assert browser.execute_script(f"return {root}.scrollWidth <= {root}.clientWidth")
    style = "getComputedStyle(document.body)"
    ink, paper = (browser.execute_script(f"return {style}.{name}") for name in COLOURS)
    light = [sum(map(int, c.strip("rgb()").split(",")[:3])) / 765 for c in (ink, paper)]
    assert abs(light[0] - light[1]) > 0.6
    assert (light[1] > 0.5) == (scheme == "light")
    for figure in browser.find_elements("css selector", "figure svg"):
        assert figure.size["width"] > 250
        assert figure.size["height"] > 80
    assert browser.get_log("browser") == []


COLOURS = ("color", "backgroundColor")
