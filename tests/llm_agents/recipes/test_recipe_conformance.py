"""What every recipe keeps, seen on a small run of each: it is planned, done once, judged, and said in a report."""

from __future__ import annotations

import io
import shutil
import tomllib
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.extras import need
from helpers.recipe_runs import CONFIGS, LIBRARIES, FinishedRun, GetRun

from llm_agents.evaluation.results import read_result, result_path, stored_panels
from llm_agents.registry.recipes import find_recipe, list_recipes, load_agent
from llm_agents.report.write import write_report
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.parallel import WorkerSettings

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ALWAYS_LOOK = {"QualityGate"}  # stages that have something to check in every run

each_recipe = pytest.mark.parametrize("name", CONFIGS)


def test_every_recipe_of_the_project_is_installed_and_looked_at():
    named = set(PROJECT["entry-points"]["llm_agents.recipes"])
    assert named == set(CONFIGS) == set(LIBRARIES)
    assert named <= set(list_recipes()), "install again: entry points are read from the installation"


@each_recipe
def test_an_unknown_key_is_refused_with_the_nearest(name: str):
    need(*LIBRARIES[name])
    config_cls = find_recipe(name).Config
    assert issubclass(config_cls, WorkerSettings)
    for field in config_cls.model_fields:
        with pytest.raises(UserError, match=f"^here: unknown key '{field}x': did you mean {field}[ ?]") as error:
            parse_config(config_cls, {f"{field}x": 1}, "here")
        assert "\n" not in str(error.value)


@each_recipe
def test_a_plan_and_one_line_a_stage_are_printed(name: str, finished: GetRun):
    done = finished(name)
    panels, agents = done.recipe.columns(done.config), done.recipe.agents(done.run)
    lines = done.printed.splitlines()
    assert lines[0].startswith("plan: ")
    assert f"judge {len(agents)} agents on {len(panels)} panels of 2 episodes" in lines[0]
    assert done.purposes
    assert [line for line in lines if line in {stage.purpose for stage in done.stages}] == done.purposes
    assert all(agent in done.printed for agent in agents)


@each_recipe
def test_every_agent_is_judged_on_every_panel_and_can_be_loaded(name: str, finished: GetRun):
    done = finished(name)
    agents, panels = done.recipe.agents(done.run), stored_panels(done.run)
    references = done.recipe.references(done.run)
    assert {references.baseline, references.oracle} <= set(agents)
    assert {panel.column for panel in panels} == {column.name for column in done.recipe.columns(done.config)}
    for agent in agents:
        assert load_agent(done.recipe, done.run, agent) is not None
        for panel in panels:
            rows = read_result(result_path(done.folder, panel.panel.hash, agent)).rows
            assert [row.agent for row in rows] == [agent] * done.config.evaluation.num_episodes
    with pytest.raises(UserError, match="unknown agent 'nobody'"):
        load_agent(done.recipe, done.run, "nobody")


@each_recipe
def test_after_a_run_every_stage_is_done(name: str, finished: GetRun):
    left = [type(stage).__name__ for stage in finished(name).stages if not stage.done()]
    assert set(left) <= ALWAYS_LOOK


@each_recipe
def test_a_finished_run_does_nothing_again_and_judges_alike_again(name: str, finished: GetRun, tmp_path: Path):
    done = copied(finished(name), tmp_path / "run")
    before, rows = files(done.folder), judged(done.folder)
    assert rows
    printed = run_again(done)
    assert files(done.folder) == before
    looked = [stage.purpose for stage in done.stages if type(stage).__name__ in ALWAYS_LOOK]
    assert [purpose for purpose in done.purposes if purpose in printed] == looked
    shutil.rmtree(done.folder / "evaluation")
    run_again(done)
    assert judged(done.folder) == rows
    assert files(done.folder).items() >= {p: at for p, at in before.items() if p.parts[0] != "evaluation"}.items()


@each_recipe
def test_a_report_shows_agents_episodes_and_tables(name: str, finished: GetRun, tmp_path: Path):
    done = copied(finished(name), tmp_path / "run")
    page = write_report(done.run, done.recipe).read_text(encoding="utf-8")
    assert all(agent in page for agent in done.recipe.agents(done.run))
    assert "step by step" in page or not done.recipe.episode_stores(done.run)
    tables = done.recipe.report_tables(done.run)
    assert [stem for stem in tables if not (done.folder / f"{stem}.json").exists()] == []
    assert [title for title in tables.values() if title not in page] == []


def copied(done: FinishedRun, folder: Path) -> FinishedRun:
    return replace(done, folder=Path(shutil.copytree(done.folder, folder)))


def run_again(done: FinishedRun) -> str:
    with redirect_stdout(io.StringIO()) as printed:
        done.recipe.run(done.config, done.run)
    return printed.getvalue()


def files(folder: Path) -> dict[Path, int]:
    """When each file of a run was last written; those that say which panels there are may be written again."""
    found = (path for path in folder.rglob("*") if path.is_file())
    panels = set((folder / "evaluation").glob("*.json"))
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in found if path not in panels}


def judged(folder: Path) -> dict[Path, str]:
    """What is stored of every episode that was judged, and on which panels."""
    return {path.relative_to(folder): path.read_text() for path in (folder / "evaluation").rglob("*.json*")}
