"""The page in a real browser: sorts, filters, hovers, goes dark, and is used by keyboard alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.reports.write import write_report
from tests.reports.html.test_page import HOSTILE, regressed
from tests.reports.test_report import cell
from tests.reports.test_sections import ROUTING, routed

pytest.importorskip("selenium", reason="selenium drives the browser")

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="no chromium and chromedriver here"),
]

FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A browser with a profile of its own."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def page(driver: Any, tmp_path: Path) -> Any:
    """The page of a run with a red cell, open at 1,280 pixels; nothing is logged or fetched."""
    from dataclasses import replace

    made = regressed()
    experts = replace(routed("Q4_K_M", 21.0, ROUTING), model="mixture", id="mixture-Q4_K_M-cpu")
    reference = replace(cell("F16", 20, 9), model="mixture", id="mixture-F16-cpu")
    path = tmp_path / "run.html"
    write_report(path, replace(made, cells=(*made.cells, reference, experts)))
    driver.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "light"}]},
    )
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False},
    )
    driver.get_log("performance")
    driver.get(path.as_uri())
    driver.execute_script("try { localStorage.clear() } catch {}")
    yield driver
    assert driver.get_log("browser") == []
    requests = [
        entry["message"]
        for entry in driver.get_log("performance")
        if '"Network.requestWillBeSent"' in entry["message"]
        and '"url":"data:' not in entry["message"]
    ]
    assert len(requests) == 1, "the page itself"


@pytest.fixture
def history_page(driver: Any, tmp_path: Path) -> Any:
    """The page of a history with a change, whose cells have a hostile name."""
    from dataclasses import replace

    from pytest_quantgate.reports.history.sources import history_of_records
    from pytest_quantgate.reports.html.history_page import history_html
    from tests.reports.history.test_history import runs

    records = {
        name: replace(item, cells=tuple(replace(c, id=f"{c.id} {HOSTILE}") for c in item.cells))
        for name, item in runs(12, 7, seed=0).items()
    }
    path = tmp_path / "history.html"
    path.write_text(history_html(history_of_records(records)), encoding="utf-8")
    driver.get_log("performance")
    driver.get(path.as_uri())
    yield driver
    assert driver.get_log("browser") == []


def serious_faults(page: Any) -> list[Any]:
    """Return what axe-core finds that keeps people from using a page."""
    axe = pytest.importorskip("axe_core_python", reason="axe-core examines the page")
    page.execute_script((Path(axe.__path__[0]) / "axe.min.js").read_text(encoding="utf-8"))
    violations = page.execute_async_script(
        "const done = arguments[0]; for (const item of document.querySelectorAll('details'))"
        " item.open = true; axe.run().then(found => done(found.violations.map("
        "v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 200))])))"
    )
    return [item for item in violations if item[0] in {"serious", "critical"}]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["page", "history_page"])
def test_axe_finds_nothing_serious(
    name: str, width: int, theme: str, request: pytest.FixtureRequest
) -> None:
    page = request.getfixturevalue(name)
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    page.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    assert serious_faults(page) == []


def test_a_history_sorts_filters_and_says_what_a_point_is(history_page: Any) -> None:
    from selenium.webdriver.support.ui import Select

    assert find(history_page, "img") == []
    Select(find(history_page, "#verdicts")[0]).select_by_visible_text("changed only")
    assert find(history_page, "#count")[0].text == "1 of 12 figures"
    assert column(history_page, 2) == ["PPL"]
    mark = find(history_page, ".mark.bad")[0]
    mark_text = mark.get_attribute("aria-label")
    history_page.execute_script("arguments[0].focus()", mark)
    (tip,) = find(history_page, "#tip")
    assert tip.is_displayed()
    assert tip.text == mark_text
    assert mark_text.startswith("PPL 21.2")
    assert "run-7" in mark_text


def find(page: Any, selector: str) -> list[Any]:
    found: list[Any] = page.find_elements("css selector", selector)
    return found


def column(page: Any, place: int) -> list[str]:
    return [
        element.text
        for element in find(page, f"#cells tbody tr > :nth-child({place})")
        if element.is_displayed()
    ]


def test_a_hostile_name_is_text(page: Any) -> None:
    assert find(page, "img") == []
    assert HOSTILE in find(page, ".card h3")[0].text


def test_a_click_sorts_by_number_and_says_so(page: Any) -> None:
    (head,) = [item for item in find(page, "#cells th[scope=col]") if item.text.startswith("size")]
    place = page.execute_script("return arguments[0].cellIndex", head) + 1
    head.find_element("css selector", "button").click()
    assert head.get_attribute("aria-sort") == "ascending"
    values = [float(text) for text in column(page, place)]
    assert values == sorted(values)
    head.find_element("css selector", "button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(text) for text in column(page, place)] == sorted(values, reverse=True)


def test_the_filter_leaves_what_is_red(page: Any) -> None:
    from selenium.webdriver.support.ui import Select

    assert len(column(page, 1)) == 5
    Select(find(page, "#verdicts")[0]).select_by_visible_text("red only")
    assert column(page, 1) == ["Q4_0"]
    assert find(page, "#count")[0].text == "1 of 5 cells"
    Select(find(page, "#verdicts")[0]).select_by_visible_text("all")
    find(page, "#find")[0].send_keys("mixture q4")
    assert column(page, 1) == ["Q4_K_M"]


def test_a_point_says_what_it_is(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    mark = find(page, ".mark.bad")[0]
    page.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", mark)
    target = mark.find_element("css selector", ".target")
    ActionChains(page).move_to_element(target).perform()
    (tip,) = find(page, "#tip")
    assert tip.is_displayed()
    assert tip.text.startswith("Q4_0: 5.0 MB, ΔPPL +10.00 %")
    assert mark.get_attribute("aria-label") == tip.text


@pytest.fixture
def devices_page(driver: Any, tmp_path: Path) -> Any:
    """The page of a model on two devices, with and without an importance matrix."""
    from dataclasses import replace

    from tests.reports.test_report import record

    made = [
        replace(
            cell(name, 20 + loss + shift, size),
            device=device,
            imatrix=matrix,
            id=f"m-{name}-{matrix}-{device}",
            tensor_data_sha256=f"{name}{matrix}",
        )
        for device, shift in (("cpu", 0.0), ("cuda", 0.02))
        for name, loss, size, matrix in (
            *(("F16", 0.0, 16.0, None), ("Q8_0", 0.1, 8.0, None)),
            *(("Q4_0", 1.0, 5.0, None), ("Q4_0", 0.8, 5.0, "calibration")),
        )
    ]
    path = tmp_path / "devices.html"
    write_report(path, record(*made))
    driver.get(path.as_uri())
    return driver


def test_points_are_chosen_by_device_and_importance_matrix(devices_page: Any) -> None:
    (figure, *_) = find(devices_page, "section[aria-labelledby=devices-1] .plot")

    def shown() -> list[str]:
        marks = figure.find_elements("css selector", ".mark")
        labels = [mark.get_attribute("aria-label") for mark in marks if mark.is_displayed()]
        return sorted(label.partition(":")[0] for label in labels)

    def click(value: str) -> None:
        box = figure.find_element("css selector", f"input[value={value}]")
        script = "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})"
        devices_page.execute_script(script, box)
        box.click()

    assert len(shown()) == 8
    click("cuda")
    assert shown() == [f"{n} on cpu" for n in ("F16", "Q4_0", "Q4_0-calibration", "Q8_0")]
    click("none")
    assert shown() == ["Q4_0-calibration on cpu"]
    click("cuda")
    assert shown() == ["Q4_0-calibration on cpu", "Q4_0-calibration on cuda"]
    assert serious_faults(devices_page) == []


def test_dark_and_back(page: Any) -> None:
    def back() -> str:
        colour: str = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return colour

    light = back()
    (button,) = find(page, "#theme")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    dark = back()
    assert dark != light
    button.click()
    assert back() == light
    page.execute_script("delete document.documentElement.dataset.theme")
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    assert back() == dark, "the system's wish"


def test_everything_is_reached_by_keyboard(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    reached = set()
    for _ in range(80):
        page.switch_to.active_element.send_keys(Keys.TAB)
        reached.add(
            page.execute_script(
                "const e = document.activeElement; return e.id || e.closest('th')?.tagName"
                " || (e.classList.contains('mark') && 'mark') || e.tagName"
            )
        )
        if page.execute_script("return document.activeElement.classList.contains('mark')"):
            assert find(page, "#tip")[0].is_displayed()
    assert {"theme", "find", "verdicts", "models", "TH", "mark", "SUMMARY"} <= reached


def test_experts_are_drawn_when_they_are_opened(page: Any) -> None:
    summary = find(page, ".experts summary")[0]
    page.execute_script("arguments[0].click()", summary)
    page.execute_script("return new Promise(done => setTimeout(done, 50))")
    texts = [cell.text for cell in find(page, ".experts td")]
    assert texts == ["0.0710", "0.0820"]


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_the_page_never_scrolls_sideways(page: Any, width: int) -> None:
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
