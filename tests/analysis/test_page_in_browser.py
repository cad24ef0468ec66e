"""The page in headless Chromium: plots are drawn, nothing is fetched or complained of, tables sort."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from analysis import report
from analysis.web import render
from tests.analysis import browser as browsers
from tests.analysis import made_page
from tests.analysis.test_hostile import FORMULA, IMAGE, METHODS, rename

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not browsers.PROGRAM, reason="needs chromium (apt-get install chromium)"),
]
FIRST = "[...document.querySelectorAll('table.sortable')].at(-1)"
COLUMN = f"[...{FIRST}.tBodies[0].rows].map(row => row.cells[0].textContent)"
HEADS = f"[...{FIRST}.tHead.rows[0].cells].map(head => head.getAttribute('aria-sort'))"


@pytest.fixture(scope="module")
def browser():
    with browsers.browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The made page as a file."""
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render.render(made_page.page()))
    return path


def click(browser, column):
    browser.value(f"{FIRST}.tHead.rows[0].cells[{column}].querySelector('button').click()")


def test_every_plot_is_drawn_and_nothing_is_fetched(browser, page):
    browser.open(page)
    plots = browser.value(
        "[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('svg.main-svg').length)"
    )
    assert len(plots) == 11
    assert min(plots) >= 1
    marks = browser.value(
        "[...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('.point, .js-line, .point path').length)"
    )
    assert [at for at, count in enumerate(marks) if count == 0] == [2]  # the panel without a trial
    assert browser.errors == []
    assert browser.requests == []


@pytest.mark.parametrize(("width", "touch"), [(1280, False), (390, True)])
def test_nothing_is_wider_than_the_window(browser, page, width, touch):
    browser.open(page, width=width, touch=touch)
    assert browser.value("document.documentElement.scrollWidth") == width
    wide = browser.value(
        "[...document.querySelectorAll('main p, main figure, main .scroll, main ul')].filter(e => e.getBoundingClientRect().right > innerWidth).length"
    )
    assert wide == 0
    assert browser.errors == []


def test_a_finger_on_a_plot_scrolls_the_page(browser, page):
    browser.open(page, width=390, touch=True)
    modes = browser.value(
        "[...document.querySelectorAll('.plot')].map(p => p._fullLayout.dragmode)"
    )
    assert set(modes) == {False}
    actions = browser.value(
        "[...document.querySelectorAll('.nsewdrag')].map(d => getComputedStyle(d).touchAction)"
    )
    assert actions
    assert "none" not in actions


def test_a_click_on_the_head_sorts_numbers_as_numbers(browser, page):
    browser.open(page)
    assert browser.value(COLUMN) == ["teacher", "no_kd", "response", "feature"]
    click(browser, 1)
    assert browser.value(COLUMN) == ["teacher", "no_kd", "feature", "response"]  # no number: last
    assert browser.value(HEADS) == [None, "descending", None, None]
    click(browser, 1)
    assert browser.value(COLUMN) == ["feature", "no_kd", "teacher", "response"]
    assert browser.value(HEADS) == [None, "ascending", None, None]
    click(browser, 2)
    assert browser.value(COLUMN)[0] == "teacher"  # 56,554 is more than 1,030
    assert browser.value(HEADS) == [None, None, "descending", None]
    click(browser, 0)
    assert browser.value(COLUMN) == ["feature", "no_kd", "response", "teacher"]


@pytest.mark.parametrize(("key", "code"), [("Enter", 13), (" ", 32)])
def test_a_key_sorts_as_well(browser, page, key, code):
    browser.open(page)
    browser.value(f"{FIRST}.tHead.rows[0].cells[0].querySelector('button').focus()")
    browser.press(key, code)
    assert browser.value(COLUMN) == ["feature", "no_kd", "response", "teacher"]


POINT = """(() => {
    const plot = document.getElementById("plot-4-0"); // a slice
    plot.scrollIntoView({block: "center", behavior: "instant"});
    const marks = [...plot.querySelectorAll(".point")].map((p) => p.getBoundingClientRect());
    const one = marks.sort((a, b) => a.top - b.top)[0];
    return [one.left + one.width / 2, one.top + one.height / 2];
})()"""
SAID = """new Promise((resolve) => setTimeout(() => {
    const label = document.querySelector("#plot-4-0 .hovertext");
    const place = label.getBoundingClientRect();
    resolve([label.textContent, place.left >= 0 && place.right <= innerWidth,
             document.documentElement.scrollWidth === innerWidth]);
}, 500))"""


@pytest.mark.parametrize("width", [1280, 390])
def test_the_pointer_on_a_point_shows_its_trial(browser, page, width):
    browser.open(page, width=width)
    browser.rest_on(*browser.value(POINT))
    text, inside, no_wider = browser.value(SAID)
    best = int(np.argmax(made_page.VALUES))
    assert f"response, trial {best}" in text
    assert f"lr {made_page.RATES[best]}" in text
    assert inside
    assert no_wider


def background(picture: bytes) -> float:
    with Image.open(io.BytesIO(picture)) as shot:
        return float(np.asarray(shot.convert("L"))[:, 4].mean())


def test_plots_follow_the_readers_theme(browser, page):
    browser.open(page)
    ink = "getComputedStyle(document.querySelector('#plot-0-0 .xtick text')).fill"
    light = browser.value(ink)
    assert background(browser.shot(full_page=False)) > 250
    browser.theme(dark=True)
    browser.value(f"""new Promise((resolve, reject) => {{
        let tries = 0;
        (function look() {{
            if ({ink} !== {light!r}) resolve();
            else if (++tries > 200) reject("the plots kept their colours");
            else setTimeout(look, 50);
        }})();
    }})""")
    assert background(browser.shot(full_page=False)) < 40
    assert browser.errors == []


def test_on_paper_plots_are_light_and_as_wide_as_the_page(browser, page):
    browser.open(page, dark=True)
    browser.value("""Plotly.react = new Proxy(Plotly.react, {apply(react, self, args) {
            const style = getComputedStyle(document.documentElement);
            window.paper ??= [style.getPropertyValue("--bg").trim(), document.body.clientWidth,
                            document.querySelectorAll("details:not([open])").length];
            return react(...args);
        }}); window.paper = null""")
    paper = browser.paper()
    assert paper.startswith(b"%PDF")
    colour, width, fold_count = browser.value("window.paper")
    assert (colour, width, fold_count) == ("#ffffff", 680, 0)
    assert browser.value("document.querySelectorAll('details[open]').length") == 0  # folded again
    assert browser.errors == []


def test_a_plot_that_was_folded_away_has_its_width_when_it_is_opened(browser, page):
    browser.open(page)
    width = browser.value("""new Promise(resolve => {
        document.querySelector("details").open = true;
        setTimeout(() => resolve(document.querySelector("details .main-svg").clientWidth), 500);
    })""")
    assert width == browser.value("document.querySelector('details .plot').clientWidth") > 600


def test_without_scripts_tables_and_pictures_are_there(browser, made_up, tmp_path):
    address = made_up.put(tmp_path / "x", made_up.all_rows())
    assert report.main([address]) == 0
    browser.open(tmp_path / "x" / "report" / "index.html", scripts=False)
    script = "[...document.images].filter(i => i.complete && i.naturalWidth > 100).length"
    assert browser.value(script) == 4  # differences, history, curves, losses
    assert browser.value("document.querySelectorAll('tbody tr').length") > 20
    assert browser.errors == []


def test_an_old_browser_gets_the_pictures(browser, made_up, tmp_path):
    address = made_up.put(tmp_path / "x", made_up.all_rows())
    assert report.main([address]) == 0
    script = browser.send(
        "Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream"
    )
    try:
        browser.open(tmp_path / "x" / "report" / "index.html")
    finally:
        browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    assert browser.value("document.images.length") == 4
    assert all("figures are shown as pictures" in text for text in browser.errors)


def test_a_picture_beside_the_page_is_shown(browser, made_up, tmp_path, monkeypatch):
    monkeypatch.setattr(render, "BUDGET", 0)
    address = made_up.put(tmp_path / "x", made_up.all_rows())
    assert report.main([address]) == 0
    path = tmp_path / "x" / "report" / "index.html"
    assert re.search(r'src="differences\.png"', path.read_text())
    browser.open(path, scripts=False)
    assert browser.value("[...document.images].every(i => i.naturalWidth > 100)")
    assert browser.errors == []


def test_hostile_names_run_nothing(browser, made_up, tmp_path):
    methods = {
        name: {"defaults": {}, "bounds": {"lr": [0.01, 1.0, True]}} for name in METHODS.values()
    }
    rows = [rename(row) for row in made_up.all_rows()]
    address = made_up.put(
        tmp_path / "x",
        rows,
        study=IMAGE,
        methods=methods,
        class_names=[IMAGE] * 3,
        tables=["classes"],
    )
    assert report.main([address]) == 0
    browser.open(tmp_path / "x" / "report" / "index.html")
    assert browser.errors == []
    assert browser.requests == []
    assert "Page.javascriptDialogOpening" not in {event.get("method") for event in browser.events}
    texts = browser.value(
        "[...document.querySelectorAll('.annotation-text')].map(t => t.textContent).join('\\n')"
    )
    assert (
        "<img src=x onerror=alert(1)>" in texts
    )  # as it is written, in the picture of differences
    assert FORMULA in texts
