"""The page as a file: what stands in it, what its plots hold, what it weighs; without a browser."""

import base64
import gzip
import html.parser
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from analysis.comparison import stats
from analysis.study import load
from analysis.web import build, library, pictures, plots, render
from analysis.web.content import Figure, Picture, Section, Table
from tests.analysis import made_page
from tune_kd.study.storage import Storage


class Parsed(html.parser.HTMLParser):
    """The elements of a file with their attributes, and its text without scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._within = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._within = tag

    def handle_endtag(self, tag):
        self._within = ""

    def handle_data(self, data):
        if self._within not in ("script", "style"):
            self.words.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        return " ".join("".join(self.words).split())


def unpack(page: str, name: str) -> str:
    match = re.search(rf'id="{name}">([^<]*)<', page)
    assert match
    return gzip.decompress(base64.b64decode(match[1])).decode()


@pytest.fixture(scope="module")
def page_text():
    return render.render(made_page.page())


# ---------------------------------------------------------------- plots


@pytest.mark.parametrize("name", made_page.PLOTS)
def test_plotly_knows_every_property_of_every_plot(name):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for plot in plots.draw(made_page.PLOTS[name]):
        data = json.loads(re.sub(r"var\(--\w+\)", "#123456", json.dumps(plot.data)))
        layout = json.loads(re.sub(r"var\(--\w+\)", "#123456", json.dumps(plot.layout)))
        graph_objects.Figure(data=data, layout=layout)  # ValueError for what it does not know


@pytest.mark.parametrize("name", made_page.PLOTS)
def test_colours_are_those_of_the_style(name):
    style = set(re.findall(r"--(\w+):", library.read_file("page.css")))
    names = set(
        re.findall(
            r"var\(--(\w+)\)",
            json.dumps([[*d.data, d.layout] for d in plots.draw(made_page.PLOTS[name])]),
        )
    )
    assert names
    assert names - style == set()


def test_points_keep_their_numbers_and_their_words():
    (plot, empty) = plots.draw(made_page.PLOTS["chart"])
    (trace,) = plot.data
    assert trace["x"] == pytest.approx(made_page.RATES, rel=1e-5)
    assert trace["y"] == pytest.approx(made_page.VALUES, rel=1e-5)
    assert trace["hovertext"][3] == f"response, trial 3<br>lr {made_page.RATES[3]}"
    assert empty.data == []
    assert empty.layout["yaxis"]["range"] == plot.layout["yaxis"]["range"]  # one y axis for all


def test_dots_below_the_axis_stand_on_it():
    plot, _ = plots.draw(made_page.PLOTS["slices"])
    (trace,) = plot.data
    low = [at for at, value in enumerate(made_page.VALUES) if value < 84]
    assert low
    assert {trace["y"][at] for at in low} == {84.0}
    assert {trace["marker"]["symbol"][at] for at in low} == {"triangle-down"}
    assert trace["marker"]["symbol"].count("circle") == len(made_page.VALUES) - len(low)


def test_a_choice_has_an_axis_of_choices_and_is_escaped():
    _, plot = plots.draw(made_page.PLOTS["slices"])
    assert plot.layout["xaxis"]["type"] == "category"
    assert plot.data[0]["x"] == ["none", "&lt;mixup&gt;"]


def test_the_forest_holds_every_interval_and_difference():
    (plot,) = plots.draw(made_page.PLOTS["forest"])
    low, high = plot.layout["xaxis"]["range"]
    assert low < -2.0
    assert high > 2.0
    intervals = [trace["x"] for trace in plot.data if trace["mode"] == "lines"]
    assert intervals == [[0.4, 2.0], [-0.3, 0.1]]  # none where n = 1
    marks = [t for t in plot.data if t["mode"] == "markers" and len(t["x"]) == 5]
    assert marks[0]["hovertext"][0] == "repeat 0"
    assert "no difference larger than 0.5 points" in plot.layout["annotations"][1]["text"]
    assert [shape["type"] for shape in plot.layout["shapes"]] == ["line", "rect"]


def test_importances_stand_in_order_with_their_intervals():
    first, second = plots.draw(made_page.PLOTS["importances"])
    assert first.data[0]["y"] == ["alpha", "temperature", "lr"]  # plotly begins at the bottom
    assert first.data[0]["error_x"]["array"] == pytest.approx([0, 0.2, 0.1])
    assert first.data[0]["error_x"]["arrayminus"] == pytest.approx([0, 0.1, 0.2])
    assert "[0.50, 0.80]" in first.data[0]["hovertext"][2]
    assert "error_x" not in second.data[0]


def test_parallel_lines_run_between_0_and_1_and_the_best_is_drawn_last():
    (plot,) = plots.draw(made_page.PLOTS["parallel"])
    best = plot.data[-1]
    assert best["line"]["width"] == max(trace["line"]["width"] for trace in plot.data)
    assert best["y"][0] == pytest.approx((np.log10(made_page.RATES[3]) + 2) / 2, abs=1e-5)
    assert best["y"][1] == 0.25  # the first of two choices
    without = next(trace for trace in plot.data if len(trace["x"]) == 2)
    assert without["x"] == [0, 2]  # a trial that lacks a value is drawn past its axis


# ---------------------------------------------------------------- the file


def test_the_page_is_one_file_that_asks_for_nothing(page_text):
    page = Parsed(page_text)
    (policy,) = [m["content"] for m in page.of("meta") if m.get("http-equiv")]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert page.of("link") == []
    assert all("src" not in script for script in page.of("script"))
    assert {a["href"] for a in page.of("a") if not a["href"].startswith("#")} == {"table.csv"}
    assert "http://" not in page_text
    assert "https://" not in page_text
    assert len(page_text) < 2_300_000


def test_links_within_the_page_lead_somewhere(page_text):
    page = Parsed(page_text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for a in page.of("a") if a["href"].startswith("#")}
    assert len(targets) > 8
    assert targets <= set(ids)


def test_every_plot_has_its_place_and_the_library_is_inside(page_text):
    embedded_plots = json.loads(unpack(page_text, "plots"))
    places = [d["id"] for d in Parsed(page_text).of("div") if d.get("class") == "plot"]
    assert [plot["id"] for plot in embedded_plots] == places
    assert len(places) == 11  # of eight figures, three of them with two panels
    assert "plotly.js v" in unpack(page_text, "plotly")[:100]


def test_blocks_are_there_in_order(page_text):
    text = Parsed(page_text).text
    order = [
        "12 of 20 trials",
        "response helps",
        "forest",
        "A warning.",
        "one",
        "Test accuracy",
        "Means over n seeds",
        "Folded",
    ]
    places = [text.rindex(part) for part in order]
    assert places == sorted(places)
    assert "Empty" not in text  # a section without blocks
    assert text.index("response helps") < text.index("forest", text.index("response helps"))


def test_cells_carry_the_numbers_that_they_sort_by(page_text):
    cells = [td for td in Parsed(page_text).of("td") if td.get("class") == "number"]
    assert [td.get("data-value") for td in cells] == [
        "98.15",
        "56554.0",
        "90.12",
        "1030.0",
        None,
        "1030.0",
        "8.64",
        "999.0",
    ]


def test_a_page_without_plots_needs_no_library():
    page = made_page.page()
    (study,) = page.studies
    bare = replace(study, sections=(Section(title="Rest", blocks=(made_page.TABLE,)),))
    text = render.render(replace(page, studies=(bare,)))
    assert len(text) < 30_000
    assert 'id="plotly"' not in text


def picture(name: str, side: int = 1600) -> Picture:
    noise = np.random.default_rng(1).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return Picture(name=name, data=buffer.getvalue(), alt=f"a picture, {name}")


def test_pictures_are_inside_while_the_page_stays_small_else_beside_it():
    heavy = tuple(
        picture(f"{at}.png") for at in range(5)
    )  # noise: about 1 MB each, and scaled down
    page = made_page.page()
    (study,) = page.studies
    crowded = replace(study, sections=(*study.sections, Section(title="Pictures", blocks=heavy)))
    text = render.render(replace(page, studies=(crowded,)))
    assert len(text.encode()) <= render.BUDGET
    sources = [img["src"] for img in Parsed(text).of("img")]
    inside = [src.startswith("data:image/webp;base64,") for src in sources]
    assert inside == [True] * sum(inside) + [False] * (5 - sum(inside))
    assert 0 < sum(inside) < 5
    assert sources[-1] == "4.png"
    with Image.open(io.BytesIO(base64.b64decode(sources[0].split(",")[1]))) as small:
        assert small.width == pictures.WIDEST


def test_what_stands_for_a_figure_is_shown_where_scripts_do_not_run():
    plot = Figure(plot=made_page.PLOTS["forest"], alt="", fallback=picture("forest.png", side=40))
    page = made_page.page()
    study_section = replace(page.studies[0], sections=(Section(title="x", blocks=(plot,)),))
    text = render.render(replace(page, studies=(study_section,)))
    assert re.search(r'<noscript><img src="data:image/webp;base64,[^"]+" alt="a picture', text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("90.12 ± 3.00 (n = 3)", 90.12),
        ("-1.48 [-9.05, +6.09]", -1.48),
        ("+0.80", 0.8),
        ("1,030", 1030),
        ("2.81M", 2.81),
        ("27.0x", 27),
        ("1e-05", 1e-05),
        ("0 (the default settings are the best)", 0),
        ("-", None),
        ("", None),
        ("no_kd", None),
        ("response-3", None),
        ("nan", None),
    ],
)
def test_a_cell_sorts_by_the_number_that_it_begins_with(text, number):
    from analysis.web.columns import leading_number

    assert leading_number(text) == number


def test_a_column_of_names_that_begin_with_digits_is_not_one_of_numbers():
    from analysis.web.columns import is_numeric

    table = Table(columns=("Class",), rows=(("3-wheeler",), ("cat",)))
    assert not is_numeric(table, 0)


# ---------------------------------------------------------------- studies


def built_page(made_up, tmp_path, rows, **changes):
    study = load(made_up.put(tmp_path / "x", rows, **changes))
    text = render.render(build.build([study], pictures=[{}], files=[]))
    return Parsed(text).text


def test_a_whole_study_in_its_order(made_up, tmp_path):
    study = load(made_up.put(tmp_path / "x", made_up.all_rows()))
    page = build.build([study], pictures=[{}], files=[])
    (section,) = page.studies
    assert (
        section.answer
        == "**response** helps; not settled for **feature**; too few repeats to say anything of **combined**."
    )
    assert [verdict.tone for verdict in section.verdicts] == ["good", "none", "none"]
    assert section.status == ""
    assert [part.title for part in section.sections if part.blocks] == [
        "Differences to the baseline",
        "Test accuracy",
        "Out of the box and tuned",
        "What to use",
        "Hyperparameters",
        "Search",
        "Winner's curse (validation split)",
        "Training of the chosen trials",
        "Teacher",
        "What to do next",
        "Failures",
        "How it was made",
    ]
    forest = section.sections[0].blocks[0].plot
    assert [effect.name for effect in forest.effects] == ["response", "feature", "combined"]
    change = stats.differences(study.tuned_values("response"), study.tuned_values("no_kd"))
    marks = forest.effects[0].marks
    assert [mark.value for mark in marks] == pytest.approx([d * 100 for d in change.values()])
    assert len(marks) >= 3
    winner = study.winner("response", 1)
    assert "response, repeat 1: " in marks[1].hover
    assert f"response, repeat 1, trial {winner['number']} (finished)" in marks[1].hover
    assert "lr 0.1" in marks[1].hover


def test_a_study_that_still_runs_says_how_far_it_is(made_up, tmp_path):
    address = made_up.put(tmp_path / "x", made_up.search[:5])
    for trial in ("no_kd-0", "response-2", "feature-0"):
        Storage(address).write(f"proposals/{trial}.json", b"{}")
    assert build.status(load(address)) == "5 of 36 trials have ended, still running or interrupted"
    complete = load(made_up.put(tmp_path / "y", made_up.search))
    assert build.status(complete) == ""


def test_an_empty_study(made_up, tmp_path):
    text = built_page(made_up, tmp_path, [])
    assert "no trial has ended yet" in text
    assert "Nothing to say yet: no trial has finished." in text


def test_only_failures(made_up, tmp_path):
    rows = [made_up.trial("no_kd", n, None, status="failed", reason=f"broke {n}") for n in range(3)]
    text = built_page(made_up, tmp_path, rows)
    assert "Nothing to say yet: no trial has finished." in text
    assert "broke 2" in text


def test_one_method(made_up, tmp_path):
    rows = [r for r in made_up.all_rows() if r["method"] in ("", "no_kd")]
    text = built_page(made_up, tmp_path, rows, methods={"no_kd": {"defaults": {}}})
    assert "Nothing to compare: the study has the baseline alone." in text


def test_nothing_confirmed(made_up, tmp_path):
    text = built_page(made_up, tmp_path, [*made_up.teacher(test=None), *made_up.search])
    assert "No verdict yet: nothing has been confirmed" in text
    assert "python -m tune_kd.confirm" in text
    assert "Differences to the baseline" not in text
    assert "optimistic: chosen on it" in text


def test_several_objectives_have_their_front(compressed):
    page = build.build([compressed], pictures=[{}], files=[])
    titles = [part.title for part in page.studies[0].sections if part.blocks]
    assert "Trade-offs" in titles
    front = next(part for part in page.studies[0].sections if part.title == "Trade-offs")
    plot = front.blocks[0].plot
    crosses = [s for s in plot.panels[0].series if s.symbol == "x" and s.points]
    assert crosses  # those that break size_mb <= 0.07
    assert all("breaks size_mb <= 0.07" in p.hover for s in crosses for p in s.points)
    render.render(page)


def test_two_studies_have_places_of_their_own(made_up, tmp_path):
    studies = [load(made_up.put(tmp_path / name, made_up.all_rows(), study=name)) for name in "ab"]
    text = render.render(build.build(studies, pictures=[{}, {}], files=[]))
    page = Parsed(text)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert "a" in page.text
    assert {"study-1", "study-2"} <= set(ids)


def test_a_large_study_stays_small(made_up, tmp_path):
    rows = [
        made_up.trial(method, n, 0.5 + n / 2000)
        for method in ("no_kd", "response")
        for n in range(400)
    ]
    study = load(made_up.put(tmp_path / "x", rows))
    text = render.render(build.build([study], pictures=[{}], files=[]))
    assert len(text.encode()) < 3_000_000
    assert len(json.loads(unpack(text, "plots"))) > 8


def test_pictures_of_predictions_are_folded_and_confusion_is_not(dense):
    files = {
        name: picture(name, side=8).data
        for name in ("confusion-2.png", "predictions-no_kd-2.png", "history-2.png")
    }
    page = build.build([dense], pictures=[files], files=[])
    (part,) = [s for s in page.studies[0].sections if s.title == "Predictions on the test split"]
    confusion, fold = part.blocks
    assert confusion.name == "confusion-2.png"
    assert [one.name for one in fold.blocks] == ["predictions-no_kd-2.png"]
    history = next(b for s in page.studies[0].sections if s.title == "Search" for b in s.blocks)
    assert history.fallback.name == "history-2.png"
    assert len(Parsed(render.render(page)).of("img")) == 3
