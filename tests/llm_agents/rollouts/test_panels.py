import json
from collections import Counter
from pathlib import Path

import pytest

from envs.clevr_robot.task import ClevrRobotTask
from envs.goals import SPLITS, Goal, UnknownGoal
from llm_agents.rollouts.panels import Panel, make_panel, read_panel
from llm_agents.rollouts.specs import select_phrasings
from llm_agents.runtime.errors import UserError

TASK = ClevrRobotTask()


@pytest.mark.parametrize("split", SPLITS)
def test_a_panel_depends_on_nothing_but_its_arguments(split: str):
    panel = make_panel(TASK, split, 50, seed=3)
    assert panel == make_panel(ClevrRobotTask(), split, 50, seed=3)
    assert panel.hash == make_panel(TASK, split, 50, seed=3).hash
    assert panel.hash != make_panel(TASK, split, 50, seed=4).hash
    assert {spec.split for spec in panel.specs} == {split}
    assert all(spec.instruction in TASK.goal_set.find(spec.goal_id, split).phrasings for spec in panel.specs)


@pytest.mark.parametrize(
    ("split", "subset", "expected"),
    [
        ("train", "all", "915de899bd33"),
        ("rephrase", "given", "23ae5a7731b8"),
        ("rephrase", "new", "38ade00b285e"),
        ("easy", "all", "036e8dad4680"),
        ("hard", "all", "607ca70e7b9d"),
    ],
)
def test_the_panels_of_published_results_stay_as_they_are(split, subset, expected):
    """Those of docs/results.md: numbers on other panels cannot be compared with them."""
    assert make_panel(TASK, split, 300, subset=subset).hash == expected


def test_families_have_the_same_weight_and_goals_repeat_late():
    panel = make_panel(TASK, "hard", 100)
    goals = [TASK.goal_set.find(spec.goal_id, "hard") for spec in panel.specs]
    families = Counter(goal.family for goal in goals)
    assert max(families.values()) - min(families.values()) <= 1
    composed = [goal.id for goal in goals if goal.family == "both"]
    assert len(set(composed)) == len(composed)


def test_starts_differ_from_each_other_and_from_training():
    seeds = [spec.seed for seed in range(3) for spec in make_panel(TASK, "easy", 200, seed).specs]
    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 10**6


def test_the_hash_sees_every_field_and_the_order():
    specs = make_panel(TASK, "easy", 3).specs
    hashes = {Panel(specs).hash, Panel(specs[::-1]).hash, Panel(specs[:2]).hash}
    assert len(hashes) == 3


def test_new_phrasings_are_never_given_ones():
    for goal in TASK.goals("rephrase"):
        given, new = select_phrasings(goal, "given"), select_phrasings(goal, "new")
        assert given
        assert new
        assert not set(given) & set(new)
        assert set(given) | set(new) == set(select_phrasings(goal, "all"))
    phrasing = {spec.instruction for spec in make_panel(TASK, "rephrase", 100, subset="new").specs}
    assert not phrasing & {text for goal in TASK.goals("rephrase") for text in select_phrasings(goal, "given")}


def test_impossible_panels_are_refused():
    with pytest.raises(UnknownGoal, match="did you mean hard"):
        make_panel(TASK, "hrad", 3)
    with pytest.raises(UserError, match="at least 1 episode"):
        make_panel(TASK, "hard", 0)
    with pytest.raises(UserError, match="unknown phrasings 'newer'"):
        make_panel(TASK, "hard", 3, subset="newer")
    with pytest.raises(UserError, match="one phrasing"):
        select_phrasings(Goal("a", "b", "easy", ("only this",)), "new")


@pytest.mark.parametrize("lines", [True, False])
def test_a_panel_of_your_own(tmp_path: Path, lines: bool):
    rows = [
        {"goal": "move/left/red", "instruction": "red goes west"},
        {"goal": "line", "instruction": "sort", "seed": 5},
    ]
    path = tmp_path / "mine.json"
    path.write_text("\n\n".join(map(json.dumps, rows)) if lines else json.dumps(rows, indent=1))
    panel = read_panel(path, TASK, "train")
    assert [(spec.goal_id, spec.instruction, spec.split) for spec in panel.specs] == [
        ("move/left/red", "red goes west", "easy"),
        ("line", "sort", "hard"),
    ]
    assert panel.specs[1].seed == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("{", "is not JSON"),
        ("3", "row 1: expected"),
        ('{"goal": "line"}', "row 1: the field 'instruction' is missing"),
        ('{"goal": "line", "instruction": "  "}', "row 1: the field 'instruction' is missing"),
        ('{"goal": "line", "instruction": "a"}\n{"goal": "lin", "instruction": "a"}', "row 2: unknown goal 'lin'"),
        ('{"goal": "line", "instruction": "a", "seed": -1}', "row 1: the seed is -1"),
        ('{"goal": "line", "instruction": "a", "seed": "x"}', "row 1: the seed is 'x'"),
        ("\udcff", "is not a text file"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, text: str, message: str):
    path = tmp_path / "mine.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError) as raised:
        read_panel(path, TASK, "train")
    assert message in str(raised.value)
    assert "mine.json" in str(raised.value)


def test_a_missing_panel_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_panel(tmp_path / "nowhere.json", TASK, "train")
