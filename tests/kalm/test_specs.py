"""Which cases are played and imagined: what may be seen in training, and seeds that never meet those of a panel."""

from collections import Counter

import pytest

from kalm.specs import imagination_specs, training_specs
from llm_agents.rollouts.panels import make_panel
from llm_agents.rollouts.specs import select_phrasings
from llm_agents.runtime.errors import UserError

STAGES = ("real", "random_rollouts", "gate")
SPLITS = ("rephrase", "easy", "hard")


def all_cases(task, count: int, seed: int) -> dict[str, list]:
    specs = {stage: training_specs(task, stage, count, seed) for stage in STAGES}
    return specs | {split: imagination_specs(task, split, count, seed) for split in SPLITS}


@pytest.mark.parametrize("seed", range(3))
def test_training_stages_see_training_goals_in_training_phrasings(task, seed):
    words = {goal.id: set(goal.phrasings) for goal in task.goals("train")}
    for stage in STAGES:
        specs = training_specs(task, stage, 2000, seed)
        assert len(specs) == 2000
        assert all(spec.split == "train" and spec.instruction in words[spec.goal_id] for spec in specs)


@pytest.mark.parametrize("seed", range(3))
def test_imagination_sees_only_the_given_half_of_new_phrasings(task, seed):
    specs = imagination_specs(task, "rephrase", 4000, seed)
    given = {goal.id: set(select_phrasings(goal, "given")) for goal in task.goals("rephrase")}
    new = {words for goal in task.goals("rephrase") for words in select_phrasings(goal, "new")}
    assert all(spec.split == "rephrase" and spec.instruction in given[spec.goal_id] for spec in specs)
    assert not {spec.instruction for spec in specs} & new
    assert {spec.instruction for spec in specs} == set().union(*given.values())


@pytest.mark.parametrize("split", ["easy", "hard"])
def test_imagination_is_for_goals_of_its_split(task, split):
    specs = imagination_specs(task, split, 400, seed=0)
    words = {goal.id: set(goal.phrasings) for goal in task.goals(split)}
    assert all(spec.split == split and spec.instruction in words[spec.goal_id] for spec in specs)


@pytest.mark.parametrize("split", SPLITS)
def test_families_and_what_is_said_in_them_are_equally_frequent(task, split):
    specs = imagination_specs(task, split, 2400, seed=0)
    families = {goal.id: goal.family for goal in task.goals(split)}
    sizes = Counter(families[spec.goal_id] for spec in specs)
    assert set(sizes) == set(families.values())
    assert len(set(sizes.values())) == 1
    for family in sizes:
        said = Counter((spec.goal_id, spec.instruction) for spec in specs if families[spec.goal_id] == family)
        assert max(said.values()) - min(said.values()) <= (1 if max(said.values()) > 1 else 0)


def test_fewer_cases_than_families_are_refused(task):
    families = len({goal.family for goal in task.goals("hard")})
    assert len(imagination_specs(task, "hard", families, seed=0)) == families
    with pytest.raises(UserError, match=f"{families - 1} cases"):
        imagination_specs(task, "hard", families - 1, seed=0)


def test_seeds_of_training_never_meet_each_other_or_those_of_panels(task):
    """Not for any run's seed, stage, or panel seed that is likely to be asked for."""
    seeds = Counter()
    for seed in range(6):
        for specs in all_cases(task, 3000, seed).values():
            seeds.update(spec.seed for spec in specs)
    assert max(seeds.values()) == 1
    panels = {
        spec.seed
        for seed in range(6)
        for split in ("train", *SPLITS)
        for spec in make_panel(task, split, 300, seed).specs
    }
    assert len(panels) == 6 * 300
    assert not panels & set(seeds)


def test_cases_depend_on_the_seed_and_nothing_else(task):
    assert all_cases(task, 100, 0) == all_cases(task, 100, 0)
    one, other = all_cases(task, 100, 0), all_cases(task, 100, 1)
    for name in one:
        assert [spec.instruction for spec in one[name]] != [spec.instruction for spec in other[name]]
