import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.toy_recipe import ToyRecipe, ToySettings
from hypothesis import given
from hypothesis import strategies as st

from envs.clevr_robot import make
from envs.clevr_robot.task import ClevrRobotTask
from llm_agents.agents.scripted import RandomAgent
from llm_agents.evaluation import evaluate
from llm_agents.evaluation.evaluate import evaluate_agent, evaluate_run, make_panels
from llm_agents.evaluation.results import Result, Row, column_as_json, stored_panels
from llm_agents.evaluation.statistics import Estimate
from llm_agents.evaluation.tables import format_rate, results_table
from llm_agents.rollouts.panels import Panel, make_panel
from llm_agents.rollouts.rollout import rollout
from llm_agents.runtime.console import TABLE_WIDTH, wide_console
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run

RECIPE = ToyRecipe()
PANELS = make_panels(ClevrRobotTask(), RECIPE.columns(ToySettings()), size=6)
AGENTS = ["half random", "random"]


def make_result(*outcomes: int) -> Result:
    """What an agent did that reached these goals and not those."""
    what = {"goal_id": "line", "family": "line", "split": "easy", "instruction": "a line", "seed": 0}
    return Result(tuple(Row("some", "panel", **what, success=outcome, reward=0.0, length=1) for outcome in outcomes))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "toy", ToySettings().model_dump())


def test_rows_are_in_the_order_of_the_panel():
    """Also where something is on the panel twice, and where later episodes end before earlier ones."""
    panel = Panel(make_panel(ClevrRobotTask(), "train", 3).specs + make_panel(ClevrRobotTask(), "easy", 5).specs * 2)
    result = evaluate_agent(RandomAgent(), make, panel, "chance", num_envs=5)
    assert result.episodes == len(panel)
    for index, spec in enumerate(panel.specs):
        (episode,) = rollout(RandomAgent(), make, [spec])
        row = result.rows[index]
        assert (row.agent, row.panel) == ("chance", panel.hash)
        assert (row.goal_id, row.split, row.instruction, row.seed) == (
            spec.goal_id,
            spec.split,
            spec.instruction,
            spec.seed,
        )
        assert row.family == ClevrRobotTask().goal_set.find(spec.goal_id).family
        assert (row.success, row.length) == (int(episode.success), len(episode))
        assert row.reward == pytest.approx(float(episode.rewards.sum()))


@given(st.lists(st.tuples(st.integers(0, 1), st.sampled_from(["line", "move"])), min_size=1))
def test_groups_part_a_result(rows):
    result = Result(tuple(replace(make_result(success).rows[0], family=family) for success, family in rows))
    groups = result.by("family")
    assert list(groups) == sorted({family for _, family in rows})
    assert sum(group.episodes for group in groups.values()) == result.episodes
    assert sum(group.successes for group in groups.values()) == result.successes
    assert all(row.family == name for name, group in groups.items() for row in group.rows)


def test_the_numbers_do_not_depend_on_the_workers_nor_on_a_second_call(run: Run, tmp_path: Path):
    inline = evaluate_run(run, RECIPE, PANELS, AGENTS, workers=1)
    assert list(inline) == ["easy", "rephrase (new)"]
    assert all(list(row) == AGENTS for row in inline.values())
    other = Run.create(tmp_path / "other", "toy", run.config)
    assert evaluate_run(other, RECIPE, PANELS, AGENTS, workers=2) == inline
    assert evaluate_run(run, RECIPE, PANELS, AGENTS) == inline


def test_a_killed_evaluation_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch):
    played = []

    def until_killed(agent, make_env, panel, name):
        if len(played) == 3:
            raise KeyboardInterrupt
        played.append(panel.hash)
        return make_result(*[1] * len(panel))

    monkeypatch.setattr(evaluate, "evaluate_agent", until_killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate_run(run, RECIPE, PANELS, AGENTS)
    played.pop()
    evaluate_run(run, RECIPE, PANELS, AGENTS)
    assert len(played) == 3


def test_a_panel_under_two_names_is_played_once(run: Run, monkeypatch: pytest.MonkeyPatch):
    played = []
    monkeypatch.setattr(evaluate, "evaluate_agent", lambda *_: played.append(1) or make_result(1))
    panel = PANELS["easy"]
    results = evaluate_run(run, RECIPE, {"easy": panel, "mine": panel}, ["random"])
    assert results["easy"] == results["mine"]
    assert len(played) == 1


def test_what_is_stored_is_read_back_with_its_panel(run: Run):
    results = evaluate_run(run, RECIPE, PANELS, AGENTS)
    stored = {panel.column: panel for panel in stored_panels(run)}
    assert {name: panel.panel for name, panel in stored.items()} == PANELS
    assert {name: panel.results for name, panel in stored.items()} == results


def test_an_unknown_agent_is_named(run: Run):
    with pytest.raises(UserError, match="unknown agent 'randm': did you mean random"):
        evaluate_run(run, RECIPE, PANELS, ["randm"])


def test_a_run_whose_folder_is_gone_is_named_by_a_worker(run: Run):
    shutil.rmtree(run.folder)
    with pytest.raises(UserError, match="is not a run folder"):
        evaluate_run(run, RECIPE, PANELS, AGENTS, workers=1)


def test_the_table_and_the_json():
    results = {"easy": {"a [b]": make_result(1, 1, 1, 0)}}
    table = results_table(results, PANELS)
    assert [str(cell) for cell in table.columns[0].cells] == ["a [b]"]
    assert [str(cell) for cell in table.columns[1].cells] == ["0.750 [0.30, 0.95]"]
    assert str(table.columns[1].header) == f"easy\n{PANELS['easy'].hash}"
    plain = json.loads(json.dumps(column_as_json("easy", PANELS["easy"], results["easy"])))
    assert (plain["split"], plain["panel"]) == ("easy", PANELS["easy"].hash)
    assert plain["agents"]["a [b]"]["successes"] == 3
    assert plain["agents"]["a [b]"].keys() == {"successes", "episodes", "success_rate", "low", "high"}


def test_nothing_is_cut_however_many_columns_there_are(capsys):
    agents = {name: make_result(1, 0) for name in ("start (greedy)", "real+search_mlp")}
    panels = {f"rephrase: kind {number}": PANELS["easy"] for number in range(12)}
    wide_console().print(results_table(dict.fromkeys(panels, agents), panels))
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in agents)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= TABLE_WIDTH


def test_the_split_of_a_panel_of_several_is_mixed():
    panel = Panel(PANELS["easy"].specs + PANELS["rephrase (new)"].specs)
    assert column_as_json("mine", panel, {})["split"] == "mixed"


def test_a_rate_is_short():
    assert format_rate(Estimate(0.8734, 0.826, 0.91)) == "0.873 [0.83, 0.91]"
