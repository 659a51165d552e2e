"""The checker finds each fault that is planted in a sound environment, and says what is wrong."""

import gymnasium
import pytest
from helpers import faulty_envs as faulty

from envs.check_speed import measure_speed
from envs.clevr_robot.env import ClevrRobotEnv
from envs.clevr_robot.task import ClevrRobotTask
from envs.language import LanguageEnv, LanguageEnvError, check_language_env

NUM_SEEDS = 7  # one episode for every family of every split


def check(task=ClevrRobotTask, physics=ClevrRobotEnv, wrapper=LanguageEnv):
    check_language_env(wrapper(physics(), task()), NUM_SEEDS)


def test_clevr_robot_keeps_the_contract():
    assert check_language_env(gymnasium.make("envs:ClevrRobot-v0")) is None


def test_speed_is_what_a_stopwatch_says(monkeypatch: pytest.MonkeyPatch):
    clock = {"now": 0.0}

    class Clockwork(LanguageEnv):
        """A reset takes a second, a step two."""

        def reset(self, **more):
            clock["now"] += 1
            return super().reset(**more)

        def step(self, action):
            clock["now"] += 2
            return super().step(action)

    monkeypatch.setattr("time.perf_counter", lambda: clock["now"])
    assert measure_speed(Clockwork(ClevrRobotEnv(), ClevrRobotTask()), seconds=300) == (0.5, 1.0)
    assert 300 <= clock["now"] <= 300 + 1 + 2 * 50  # the last episode is played to its end


FAULTS = [
    (faulty.NoEasyGoals, "split 'easy' has no goals"),
    (faulty.NoSuchSplit, "Each of the four splits has goals. KeyError: 'rephrase'"),
    (faulty.GoalsOfAnotherSplit, "task.goals('easy') holds goals of another split: pair/"),
    (faulty.TrainGoalInHard, "goals stand in more than one split, which only train and rephrase may share: 'pair/"),
    (faulty.LeakedPhrasing, "phrasings leak from one split to another"),
    (
        faulty.ReachedAtReset,
        "goals hold at reset already; task.is_valid_start must refuse such starts: goal 'line' with seed 0",
    ),
    (faulty.SilentAtTimes, "task.describe gives ' ' for a reached state"),
    (faulty.DescribesInBytes, "task.describe gives b'The red"),
    (faulty.LosesItsWords, "task.describe makes a text of every reached state. KeyError: 'beyond'"),
    (faulty.LongWinded, "more than the observation space holds"),
    (faulty.NoActionTexts, "task.action_texts gives None although actions are discrete"),
    (faulty.UnknownActionText, "task.parse_action does not know 'push the pink ball left'"),
    (
        faulty.TwoTextsForOneAction,
        "'push the red ball behind and left' and 'PUSH THE RED BALL BEHIND AND LEFT', name the same",
    ),
    (faulty.ActionsFromOne, "gives 40, which is not in Discrete(40)"),
    (faulty.NonsenseIsAnAction, "task.parse_action('xyzzy') gives 0: it must raise InvalidAction"),
    (faulty.NonsenseIsAKeyError, "task.parse_action('xyzzy') must raise InvalidAction, not KeyError"),
    (faulty.AchievedOnlyAtLast, "task.achieved gives shape () for 40 rows"),
    (faulty.AchievedIsANumber, "task.achieved gives float32: it must give bool"),
    (faulty.AchievedMovesTheTable, "task.achieved changes its input"),
    (faulty.StartIsTheLastState, "task.achieved without start must take the first of the states"),
    (faulty.AchievedDropsABatchAxis, "task.achieved gives shape (80,) for leading axes (2, 40)"),
    (faulty.AchievedLooksAtTheBatch, "task.achieved gives something else for a batch than for its rows one by one"),
    (faulty.RewardLooksAtTheBatch, "task.reward gives something else for a batch"),
    (faulty.RewardIsASum, "task.reward gives shape () for 40 rows"),
    (faulty.RewardIsNotANumber, "it must be finite"),
    (faulty.PlausibleIsOneAnswer, "task.plausible gives shape ()"),
    (faulty.PlausibleWritesActions, "task.plausible changes its input"),
    (faulty.PushesAreImplausible, "of real transitions: it may refuse 1%"),
    (faulty.ProjectMovesRealStates, "real states: it must leave them as they are"),
    (faulty.ProjectWorksInPlace, "task.project changes its input"),
    (faulty.ProjectLosesAnAxis, "task.project gives float32 of shape (10,) for float32 of shape ("),
    (faulty.ProjectDoublesPrecision, "task.project gives float64"),
    (faulty.StartableIsOneAnswer, "task.is_valid_start gives shape ()"),
    (faulty.EndlessHorizon, "task.horizon gives 50.0"),
    (faulty.Lying, 'info["is_success"] was True at step 2'),
    (faulty.NeverTruncates, "goes on after 50 steps: it must be truncated"),
    (faulty.AnyOption, "reset(options={'no such option': 'no such name'}) goes through"),
    (faulty.AnyGoal, "reset(options={'goal': 'no such name'}) goes through"),
    (faulty.SplitIsAKey, "reset(options={'split': 'no such name'}) must raise a ValueError, not KeyError"),
    (faulty.RememberedWords, "two resets with seed 0 and goal 'pair/behind/red/blue' differ"),
    (faulty.DeafToSeeds, "two resets with seed 0 and goal 'pair/behind/red/blue' differ"),
    (faulty.DriftsWithUse, "differs after an episode for"),
    (faulty.OneStart, "different start(s) for goal 'pair/behind/red/blue'"),
    (faulty.Breaks, "RuntimeError: gripper lost"),
    (faulty.StopsEarly, "was truncated after 20 steps although task.horizon gives 50"),
]


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(("fault", "said"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_each_fault_is_found_and_told(fault, said):
    place = "task" if issubclass(fault, ClevrRobotTask) else "wrapper" if issubclass(fault, LanguageEnv) else "physics"
    with pytest.raises(LanguageEnvError) as told:
        check(**{place: fault})
    assert said in str(told.value)


def test_all_faults_are_told_at_once():
    class Two(faulty.NoEasyGoals, faulty.NonsenseIsAnAction):
        pass

    with pytest.raises(LanguageEnvError, match="Two has ") as told:
        check(Two)
    assert "split 'easy' has no goals" in str(told.value)
    assert "'xyzzy'" in str(told.value)


def test_a_fault_is_told_apart_from_what_is_sound():
    """One planted fault is one problem: the checker does not blame its neighbours."""
    with pytest.raises(LanguageEnvError, match=r"has 1 problem\(s\):\n  - task.horizon"):
        check(faulty.EndlessHorizon)


def test_one_seed_is_too_few():
    with pytest.raises(ValueError, match="at least 2"):
        check_language_env(LanguageEnv(ClevrRobotEnv(), ClevrRobotTask()), num_seeds=1)
