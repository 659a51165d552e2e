"""Goals and their splits."""

import dataclasses

import pytest

from envs.goals import SPLITS, Goal, GoalSet, UnknownGoal, unknown


def goal(goal_id="pair/left/red/blue", split="train", phrasings=("push it",)):
    return Goal(goal_id, "pair", split, phrasings)


def test_the_four_splits_stand_in_order_of_distance_from_training():
    assert SPLITS == ("train", "rephrase", "easy", "hard")
    assert list(GoalSet([])) == list(SPLITS)


def test_a_goal_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        goal().id = "other"


def test_a_goal_needs_a_phrasing():
    with pytest.raises(ValueError, match="no phrasing in split 'train'"):
        goal(phrasings=())


def test_a_goal_needs_a_known_split():
    with pytest.raises(UnknownGoal, match="unknown split 'trian': did you mean train"):
        goal(split="trian")


def test_goals_come_back_by_split_in_their_order():
    goals = [goal(f"pair/{i}", split) for split in SPLITS for i in (split + "2", split + "1")]
    by_split = GoalSet(goals)
    assert [g for split in SPLITS for g in by_split[split]] == goals


@pytest.mark.parametrize("first", SPLITS)
@pytest.mark.parametrize("second", SPLITS)
def test_only_train_and_rephrase_may_share_a_goal(first, second):
    goals = [goal(split=first), goal(split=second)]
    if {first, second} == {"train", "rephrase"}:
        assert [len(GoalSet(goals)[split]) for split in SPLITS] == [1, 1, 0, 0]
    else:
        with pytest.raises(ValueError, match=f"stands in split '{first}' and again in '{second}'"):
            GoalSet(goals)


def test_a_goal_in_train_and_rephrase_may_not_stand_in_hard_as_well():
    with pytest.raises(ValueError, match="again in 'hard'"):
        GoalSet([goal(split="train"), goal(split="rephrase"), goal(split="hard")])


def test_a_goal_is_found_in_the_split_asked_for_or_else_where_it_stands():
    goals = GoalSet([goal(split="train", phrasings=("old",)), goal(split="rephrase", phrasings=("new",))])
    assert goals.find("pair/left/red/blue", "rephrase").phrasings == ("new",)
    assert goals.find("pair/left/red/blue", "hard").phrasings == ("old",)
    assert goals.find("pair/left/red/blue").phrasings == ("old",)


def test_an_unknown_goal_is_refused_with_the_nearest_id():
    goals = GoalSet([goal(), goal("gather/green", "hard")])
    with pytest.raises(UnknownGoal, match="unknown goal 'gather/gren': did you mean gather/green\\?"):
        goals.find("gather/gren")


@pytest.mark.parametrize("use", [lambda goals: goals["test"], lambda goals: goals.find("pair/left/red/blue", "test")])
def test_an_unknown_split_is_refused(use):
    with pytest.raises(UnknownGoal, match="unknown split 'test'"):
        use(GoalSet([goal()]))


def test_an_unknown_name_unlike_all_others_lists_some_that_exist():
    assert unknown("goal", "xyzzy", ["near", "far"]) == "unknown goal 'xyzzy': known: near, far"
