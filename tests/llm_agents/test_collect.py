"""Rollouts into a store: the same whatever stops it and however many processes play."""

from collections.abc import Sequence
from functools import partial

import pytest

from envs.clevr_robot import make
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode, EpisodeStore
from llm_agents import collect as module
from llm_agents.agents import ExpertAgent, NoisyAgent
from llm_agents.collect import collect
from llm_agents.errors import UserError
from llm_agents.evaluation.panel import make_panel
from llm_agents.rollout import Decision, Lane

TASK = ClevrRobotTask()
CASES = (*make_panel(TASK, "train", 8).cases, *make_panel(TASK, "easy", 6, seed=1).cases)
CHUNK = 4


def make_noisy(task: ClevrRobotTask) -> NoisyAgent:
    return NoisyAgent(ExpertAgent(task), 0.5)


class Dying:
    """Pushes at random, until it comes upon a certain case."""

    def __init__(self, error: type[BaseException], seed: int, task: ClevrRobotTask) -> None:
        self._error, self._seed = error, seed

    def act(self, lanes: Sequence[Lane]) -> list[Decision]:
        if any(lane.case.seed == self._seed for lane in lanes):
            raise self._error
        return make_noisy(TASK).act(lanes)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", CHUNK)


@pytest.fixture(scope="module")
def expected() -> list[dict]:
    """What each case leads to, played in one go."""
    return facts(module.play(make, make_noisy, CASES))


def facts(episodes: Sequence[Episode]) -> list[dict]:
    arrays = ("states", "actions", "rewards")
    return [vars(e) | {name: getattr(e, name).tolist() for name in arrays} for e in episodes]


def test_episodes_come_in_the_order_of_their_cases(expected):
    asked = [(case.goal_id, case.instruction, case.seed, case.split) for case in CASES]
    assert [(e["goal_id"], e["instruction"], e["seed"], e["split"]) for e in expected] == asked


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_result_does_not_depend_on_the_workers(expected, num_workers, tmp_path):
    store = EpisodeStore(tmp_path)
    assert facts(collect(make, make_noisy, CASES, store, "cases", num_workers)) == expected
    assert facts(store.read()) == expected
    assert len(store.files) == -(-len(CASES) // CHUNK)


@pytest.mark.parametrize("stop", [0, CHUNK, CHUNK + 1, len(CASES) - 1])
def test_a_collection_that_was_stopped_is_continued_to_the_same_result(expected, stop, tmp_path):
    store = EpisodeStore(tmp_path)
    dying = partial(Dying, KeyboardInterrupt, CASES[stop].seed)
    with pytest.raises(KeyboardInterrupt):
        collect(make, dying, CASES, store, "cases", 1)
    assert len(store) == stop // CHUNK * CHUNK
    kept = [path.read_bytes() for path in store.files]
    assert facts(collect(make, make_noisy, CASES, store, "cases", 1)) == expected
    assert [path.read_bytes() for path in store.files][: len(kept)] == kept


def test_a_whole_collection_is_only_read(expected, tmp_path):
    collect(make, make_noisy, CASES, EpisodeStore(tmp_path), "cases", 1)
    assert facts(collect(None, None, CASES, EpisodeStore(tmp_path), "cases", 1)) == expected


def test_no_cases_are_no_episodes(tmp_path):
    assert collect(make, make_noisy, (), EpisodeStore(tmp_path), "cases", 1) == []


def test_the_users_mistake_in_a_worker_stays_one(tmp_path):
    with pytest.raises(UserError):
        collect(make, partial(Dying, UserError, CASES[0].seed), CASES[:CHUNK], EpisodeStore(tmp_path), "cases", 1)
