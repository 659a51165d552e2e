"""Modifiers, which say the missions of BabyAI in other words."""

import pytest

pytest.importorskip("minigrid")

from envs.babyai.modifiers import COMPOSED, INVENTED, MODIFIERS, modifiers_of, modify
from envs.babyai.suite import SuiteTask
from envs.babyai.text_task import LevelTask
from envs.goals import SPLITS

MIXED = SuiteTask()
MISSIONS = (
    "go to the red ball",
    "open the door",
    "pick up a grey object on your left",
    "put the blue box next to a green key, then open a yellow door",
    "pick up the purple key and go to a box after you put a key next to the door in front of you",
)


def test_a_modifier_gives_each_mission_words_of_its_own():
    for mission in MISSIONS:
        said = [modify(mission, name) for name in (*MODIFIERS, *COMPOSED, *INVENTED)]
        assert mission not in said
        assert all(modifiers_of(words) for words in said)
    assert modify("go to the red ball", "colours") == "go to the vermilion ball"
    assert modify("open the door", "nouns") == "open the gate"
    assert modify("go to the red ball", "invented_nouns") == "xolo means ball, go to the red xolo"
    assert modify("go to the red ball", "nouns+colours") == "go to the vermilion sphere"


def test_where_a_modifier_finds_nothing_to_change_the_mission_is_still_reworded():
    assert modifiers_of(modify("open the door", "colours")) == "wish"
    assert modifiers_of(modify("open the door", "nouns+colours")) == "nouns+wish"


@pytest.mark.parametrize("names", [*MODIFIERS, *COMPOSED, *INVENTED])
def test_a_phrasing_tells_the_modifier_it_came_from(names):
    assert set(modifiers_of(modify(MISSIONS[3], names)).split("+")) == set(names.split("+"))


def test_a_task_tells_the_kind_of_its_phrasings():
    assert [MIXED.phrasing_kind(words) for words in MIXED.goal_set.find("goto/red/ball", "rephrase").phrasings] == [
        *MODIFIERS
    ]
    assert MIXED.phrasing_kind("go to the red ball") == ""
    task = LevelTask("BabyAI-GoToLocal-v0")
    assert [task.phrasing_kind(words) for words in task.goals("hard")[0].phrasings] == [*COMPOSED, *INVENTED]
    assert task.phrasing_kind(task.goals("easy")[0].phrasings[0]) == ""


def test_babyais_own_words_tell_no_modifier():
    assert [modifiers_of(mission) for mission in MISSIONS] == [""] * len(MISSIONS)
    assert all(not modifiers_of(words) for goal in MIXED.goals("train") for words in goal.phrasings)
    assert all(modifiers_of(words) for goal in MIXED.goals("rephrase") for words in goal.phrasings)


def test_levels_share_no_phrasing_between_seen_and_unseen_words():
    task = LevelTask("BabyAI-GoToLocal-v0")
    said = {
        split: {task.render_instruction(p, {"mission": m}) for p in task.goals(split)[0].phrasings for m in missions}
        for split, missions in zip(SPLITS, [["go to the red ball"]] * 2 + [["go to the green ball"]] * 2, strict=True)
    }
    assert sum(len(words) for words in said.values()) == len(set().union(*said.values()))
