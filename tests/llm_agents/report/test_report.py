import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from helpers.toy_recipe import ToyRecipe, ToySettings

from envs.clevr_robot import make
from llm_agents.evaluation.evaluate import evaluate_run, make_panels
from llm_agents.evaluation.statistics import Estimate
from llm_agents.report import write_report
from llm_agents.report.charts import bar_chart, curve, number
from llm_agents.runtime.run import Run

NASTY = "<script>alert(1)</script> & \"quotes\" 'too'"


class Page(HTMLParser):
    """The tags, headings and attributes of a page; fails on tags that are not closed in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.headings: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] in ("h1", "h2"):
            self.headings.append(data)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "tiny <b>run", "toy", ToySettings(note=NASTY).model_dump())


def test_a_run_without_results_renders(run: Run):
    page = Page(write_report(run, ToyRecipe()).read_text())
    assert page.headings == ["tiny <b>run"]
    assert "svg" not in page.tags


def test_a_whole_run_renders_by_itself(run: Run):
    recipe = ToyRecipe()
    run.record_command(["llm-agents", "train", NASTY])
    recipe.run(ToySettings(), run)
    (run.folder / "verifier.json").write_text(json.dumps({NASTY: {"tpr": 0.91234, "<i>": 1234}, "b": {"tpr": 1}}))
    (run.folder / "other.json").write_text(json.dumps({"a": [1, 2]}))
    html = write_report(run, recipe).read_text()
    page = Page(html)
    assert page.headings[1:] == ["Success on the panels", "What was verified", "Rollouts", "Training"]
    assert "script" not in page.tags
    assert "i" not in page.tags
    assert not [value for name, value in page.attributes if name in ("src", "href") and not value.startswith("data:")]
    assert "url(" not in html
    assert html.count("data:image/png") >= 8
    for panel in make_panels(make().task, recipe.columns(ToySettings()), 4).values():
        assert panel.hash in html
    assert all(text in html for text in ("0.912", "1,234", "the expert&#39;s", "made at random"))


def test_a_run_that_is_half_judged_renders(run: Run):
    recipe = ToyRecipe()
    panels = make_panels(make().task, recipe.columns(ToySettings()), 2)
    evaluate_run(run, recipe, {"easy": panels["easy"]}, ["random"])
    evaluate_run(run, recipe, {"rephrase (new)": panels["rephrase (new)"]}, ["half random"])
    html = write_report(run, recipe).read_text()
    assert Page(html).headings == ["tiny <b>run", "Success on the panels"]
    assert len(re.findall("<td>–</td>", html)) == 2


def test_bars_stand_on_one_axis():
    chart = bar_chart("hard", "", {"a": Estimate(0.5, 0.25, 0.75), "a" * 60: Estimate(1.0, 0.9, 1.0)})
    ticks = {text: x for x, text in chart.ticks}
    assert chart.bars[0].end == pytest.approx(ticks["0.5"])
    assert (chart.bars[0].low, chart.bars[0].high) == pytest.approx((ticks["0.25"], ticks["0.75"]))
    assert chart.bars[1].end == pytest.approx(ticks["1"])
    assert chart.bars[1].label.endswith("…")
    assert chart.bars[1].name == "a" * 60


def test_curves_are_thinned_and_break_where_not_finite():
    values = [float(step) for step in range(1000)]
    values[500:600] = [math.nan] * 100
    drawn = curve("loss", range(1000), values)
    assert drawn is not None
    assert len(drawn.lines) == 2
    assert sum(len(line.split()) for line in drawn.lines) <= 200
    assert (drawn.low, drawn.last, drawn.last_step) == ("4", "999", "999")
    assert curve("loss", [1, 2], [math.nan, math.inf]) is None
    assert curve("loss", [1, 2], [3.0, 3.0]) is not None


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (12345, "12,345"), (0.12345, "0.123"), (1234.56, "1,235"), (1e-7, "1e-07"), (math.nan, "nan")],
)
def test_numbers_are_short(value: float, text: str):
    assert number(value) == text
