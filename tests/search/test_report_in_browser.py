"""The report in a real browser without a network: it is quiet, and what it offers works."""

import json

import pytest
from chromium import CHROMIUM, DRIVER, chromium
from made_rows import made_row
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from test_report import EVIL, made_study

from search.report.page import Report, render
from search.spec.spec import SweepSpec
from trainables.config import TrialConfig
from trainables.contract import Status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and DRIVER), reason="needs Debian's chromium and chromium-driver"
    ),
]


def page_of(folder, trainings):
    spec = SweepSpec.model_validate(
        {
            "name": "made",
            "data": {"name": "digits"},
            "space": {"learning_rate": {"log_uniform": [0.01, 0.1]}, "weight_bits": [32, 8]},
            "constraints": {"accuracy": {"min": 0.5}},
        }
    )
    rows = made_study(trainings)
    rows += [
        made_row(9001, status=Status.STOPPED, reason="rung 1: rank 9 of 9"),
        made_row(9002, status=Status.FAILED, reason=EVIL),
        made_row(9003, 0.6, 1000, 1.0, config=TrialConfig(model="a.b:c", model_args={"x": EVIL})),
    ]
    file = folder / "report.html"
    file.write_text(render(Report(spec, "/a/study", tuple(rows), running=True)))
    return file


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    with chromium(folder / "profile") as driver:
        yield driver


@pytest.fixture
def page(browser, tmp_path):
    yield opened(browser, page_of(tmp_path, 30))
    assert complaints(browser) == []


def opened(browser, file):
    browser.get_log("performance")
    browser.get(file.as_uri())
    ready = "return document.documentElement.dataset.ready"
    assert WebDriverWait(browser, 60).until(lambda b: b.execute_script(ready)) == "all"
    return browser


def complaints(browser):
    # Drivers of software WebGL talk about their speed at lower levels.
    return [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"]


def wait(browser, condition):
    return WebDriverWait(browser, 20).until(condition)


def rows_of(browser):
    return browser.find_elements(By.CSS_SELECTOR, "#table tbody tr")


def selected(browser):
    return [
        row.find_element(By.CSS_SELECTOR, "td").text
        for row in rows_of(browser)
        if row.get_attribute("aria-selected") == "true"
    ]


def mark(browser):
    """Give a full mark of the first chart."""
    chart = browser.find_element(By.CSS_SELECTOR, "#projections .chart")
    wait(browser, lambda _: chart.find_elements(By.CSS_SELECTOR, ".scatterlayer path.point"))
    return chart.find_elements(By.CSS_SELECTOR, ".scatterlayer path.point")[-1]


def test_nothing_is_asked_of_the_network(page):
    asked = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    addresses = {
        event["params"]["request"]["url"].partition(":")[0]
        for event in asked
        if event["method"] == "Network.requestWillBeSent"
    }
    assert addresses <= {"file", "data", "blob"}


def test_pointing_at_a_mark_shows_its_settings_and_a_click_selects_it(page):
    point = mark(page)
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", point)
    ActionChains(page).move_to_element(point).perform()
    tip = wait(page, lambda b: (t := b.find_element(By.ID, "tip")).is_displayed() and t)
    name = tip.find_element(By.TAG_NAME, "b").text
    assert "learning_rate" in tip.text
    assert "%" in tip.text
    ActionChains(page).click(point).perform()
    wait(page, lambda b: selected(b) == [name])
    assert name in page.find_element(By.ID, "details").text


def test_the_table_filters_sorts_and_takes_keys(page):
    members = len(rows_of(page))
    assert members > 1
    form = page.find_element(By.ID, "filters")
    Select(form.find_element(By.NAME, "which")).select_by_value("all")
    wait(page, lambda b: b.find_element(By.ID, "count").text == "63 of 63")
    search = form.find_element(By.NAME, "text")
    search.send_keys("rung 1")
    wait(page, lambda b: len(rows_of(b)) == 1)
    assert "rank 9 of 9" in rows_of(page)[0].text
    search.clear()
    search.send_keys("weight_bits=8 amp=bf16")
    wait(page, lambda b: page.find_element(By.ID, "count").text == "15 of 63")
    form.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    wait(page, lambda b: len(rows_of(b)) == members)
    form.find_element(By.NAME, "accuracy").send_keys("99.9")
    wait(page, lambda b: not rows_of(b))
    form.find_element(By.CSS_SELECTOR, "button[type=reset]").click()
    wait(page, lambda b: len(rows_of(b)) == members)
    heads = page.find_elements(By.CSS_SELECTOR, "#table th button")
    size = next(head for head in heads if head.text == "size")
    size.send_keys(Keys.ENTER)
    order = [r.find_elements(By.TAG_NAME, "td")[2].text for r in rows_of(page)]
    kilobytes = [float(text.split()[0]) * (1000 if "MB" in text else 1) for text in order]
    assert kilobytes == sorted(kilobytes, reverse=True)
    rows_of(page)[0].send_keys(Keys.ARROW_DOWN)
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert selected(page) == [rows_of(page)[1].find_element(By.TAG_NAME, "td").text]


def test_a_pick_leads_to_its_model(page):
    button = page.find_element(By.CSS_SELECTOR, ".pick button")
    button.click()
    assert selected(page) == [button.text]


def test_every_figure_is_drawn_in_light_and_dark(page):
    for place in ("#growth", "#lines", "#projections"):
        page.execute_script(f"document.querySelector('{place}').scrollIntoView()")
        kind = "canvas" if place == "#lines" else ".main-svg"
        wait(page, lambda b, p=place, k=kind: b.find_elements(By.CSS_SELECTOR, f"{p} {k}"))
    colours = set()
    for _ in range(3):
        page.find_element(By.ID, "theme").click()
        colours.add(page.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    page.find_element(By.ID, "three").click()
    wait(
        page,
        lambda b: (
            "WebGL" in b.find_element(By.ID, "three").text
            or b.find_elements(By.CSS_SELECTOR, "#space canvas")
        ),
    )


def test_it_fits_a_phone_and_paper(page):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 1, "mobile": True},
    )
    width = "return document.documentElement.scrollWidth"
    wait(page, lambda b: b.execute_script(width) <= 360)
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    printed = page.execute_cdp_cmd("Page.printToPDF", {})
    assert len(printed["data"]) > 50_000


def test_a_thousand_trials_stay_small(browser, tmp_path):
    file = page_of(tmp_path, 1000)
    assert file.stat().st_size < 6_000_000
    opened(browser, file)
    assert len(rows_of(browser)) < 100  # more are shown when asked for
    assert complaints(browser) == []
