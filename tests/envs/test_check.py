"""The checker finds each fault that is planted in a sound environment, and says what is wrong."""

import dataclasses

import gymnasium
import numpy as np
import pytest

from envs.check_speed import measure_speed
from envs.clevr_robot.env import ClevrRobotEnv
from envs.clevr_robot.task import ACTION_TEXTS, ClevrRobotTask
from envs.goals import UnknownGoal
from envs.language import InvalidAction, LanguageEnv, LanguageEnvError, check_language_env

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


# Faults in the goals


class NoEasyGoals(ClevrRobotTask):
    def goals(self, split):
        return () if split == "easy" else super().goals(split)


class NoSuchSplit(ClevrRobotTask):
    def goals(self, split):
        return {"train": super().goals("train")}[split]


class GoalsOfAnotherSplit(ClevrRobotTask):
    def goals(self, split):
        return super().goals("train" if split == "easy" else split)


class TrainGoalInHard(ClevrRobotTask):
    def goals(self, split):
        stray = dataclasses.replace(super().goals("train")[3], split="hard", phrasings=("never said",))
        return (*super().goals(split), stray) if split == "hard" else super().goals(split)


class LeakedPhrasing(ClevrRobotTask):
    def goals(self, split):
        first, *others = super().goals(split)
        leak = super().goals("train")[7].phrasings[0]
        return (
            (dataclasses.replace(first, phrasings=(f"{leak.capitalize()}!",)), *others)
            if split == "hard"
            else (
                first,
                *others,
            )
        )


class ReachedAtReset(ClevrRobotTask):
    def achieved(self, goal, states, start=None):
        return super().achieved(goal, states, start) | (goal.id == "line")

    def is_valid_start(self, goal, states):
        return super().is_valid_start(goal, states) | (goal.id == "line")


# Faults in what is said


class SilentAtTimes(ClevrRobotTask):
    def describe(self, state):
        return super().describe(state) if state[0] > 0 else " "


class DescribesInBytes(ClevrRobotTask):
    def describe(self, state):
        return super().describe(state).encode()


class LosesItsWords(ClevrRobotTask):
    def describe(self, state):
        if np.abs(state).max() > 0.5:
            raise KeyError("beyond")
        return super().describe(state)


class LongWinded(ClevrRobotTask):
    def describe(self, state):
        return 20 * super().describe(state)


class NoActionTexts(ClevrRobotTask):
    def action_texts(self, state):
        return None


class UnknownActionText(ClevrRobotTask):
    def action_texts(self, state):
        return (*ACTION_TEXTS, "push the pink ball left")


class TwoTextsForOneAction(ClevrRobotTask):
    def action_texts(self, state):
        return (*ACTION_TEXTS, ACTION_TEXTS[5].upper())


class ActionsFromOne(ClevrRobotTask):
    def parse_action(self, text):
        return super().parse_action(text) + 1


class NonsenseIsAnAction(ClevrRobotTask):
    def parse_action(self, text):
        try:
            return super().parse_action(text)
        except InvalidAction:
            return 0


class NonsenseIsAKeyError(ClevrRobotTask):
    def parse_action(self, text):
        return {text: action for action, text in enumerate(ACTION_TEXTS)}[text]


# Faults in the predicates


class AchievedOnlyAtLast(ClevrRobotTask):
    def achieved(self, goal, states, start=None):
        return (
            super().achieved(goal, states, start)[..., -1]
            if np.ndim(states) > 1
            else super().achieved(goal, states, start)
        )


class AchievedIsANumber(ClevrRobotTask):
    def achieved(self, goal, states, start=None):
        return super().achieved(goal, states, start).astype(np.float32)

    def is_valid_start(self, goal, states):
        return ~self.achieved(goal, states, states).astype(bool)


class AchievedMovesTheTable(ClevrRobotTask):
    def achieved(self, goal, states, start=None):
        done = super().achieved(goal, states, start)
        states += 0.01
        return done


class StartIsTheLastState(ClevrRobotTask):
    def achieved(self, goal, states, start=None):
        return super().achieved(goal, states, states[..., -1:, :] if start is None and np.ndim(states) > 1 else start)


class AchievedDropsABatchAxis(ClevrRobotTask):
    def achieved(self, goal, states, start=None):
        return (
            super().achieved(goal, states, start).ravel()
            if np.ndim(states) > 2
            else super().achieved(goal, states, start)
        )


class AchievedLooksAtTheBatch(ClevrRobotTask):
    def achieved(self, goal, states, start=None):
        done = super().achieved(goal, states, start)
        return done | (np.ndim(states) > 1)


class RewardLooksAtTheBatch(ClevrRobotTask):
    def reward(self, goal, states, next_states, start=None):
        reward = super().reward(goal, states, next_states, start)
        return reward - np.mean(reward)


class RewardIsASum(ClevrRobotTask):
    def reward(self, goal, states, next_states, start=None):
        return np.sum(super().reward(goal, states, next_states, start))


class RewardIsNotANumber(ClevrRobotTask):
    def reward(self, goal, states, next_states, start=None):
        reward = super().reward(goal, states, next_states, start)
        return reward / (np.asarray(states)[..., 0] > 0)


class PlausibleIsOneAnswer(ClevrRobotTask):
    def plausible(self, states, actions, next_states):
        return bool(super().plausible(states, actions, next_states).all())


class PlausibleWritesActions(ClevrRobotTask):
    def plausible(self, states, actions, next_states):
        if np.ndim(actions):
            actions[...] = 0
        return super().plausible(states, actions, next_states)


class PushesAreImplausible(ClevrRobotTask):
    def plausible(self, states, actions, next_states):
        return np.linalg.norm(next_states - states, axis=-1) < 0.2


class ProjectMovesRealStates(ClevrRobotTask):
    def project(self, states):
        return np.round(states, 2)


class ProjectWorksInPlace(ClevrRobotTask):
    def project(self, states):
        return np.clip(states, -0.1, 0.1, out=states)


class ProjectLosesAnAxis(ClevrRobotTask):
    def project(self, states):
        return states[0]


class ProjectDoublesPrecision(ClevrRobotTask):
    def project(self, states):
        return states.astype(np.float64)


class StartableIsOneAnswer(ClevrRobotTask):
    def is_valid_start(self, goal, states):
        return np.bool_(super().is_valid_start(goal, states).any())


class EndlessHorizon(ClevrRobotTask):
    def horizon(self, goal):
        return 50.0


# Faults in the wrapper or the physics


class Lying(LanguageEnv):
    def _info(self, success, **more):
        return super()._info(success or self.num_steps == 2, **more)


class NeverTruncates(LanguageEnv):
    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, terminated, False, info


class AnyOption(LanguageEnv):
    def reset(self, *, seed=None, options=None):
        known = {key: value for key, value in (options or {}).items() if key in ("goal", "split", "instruction")}
        return super().reset(seed=seed, options=known)


class AnyGoal(LanguageEnv):
    def reset(self, *, seed=None, options=None):
        try:
            return super().reset(seed=seed, options=options)
        except UnknownGoal:
            return super().reset(seed=seed)


class SplitIsAKey(LanguageEnv):
    def reset(self, *, seed=None, options=None):
        try:
            return super().reset(seed=seed, options=options)
        except UnknownGoal as error:
            raise KeyError(str(error)) from error


class RememberedWords(LanguageEnv):
    """The phrasing depends on how many episodes there were before."""

    num_resets = 0

    def _observation(self):
        self.num_resets += self.num_steps == 0
        words = self.goal.phrasings[self.num_resets % len(self.goal.phrasings)]
        return super()._observation() | {"goal": words}


class DeafToSeeds(ClevrRobotEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class DriftsWithUse(ClevrRobotEnv):
    """The start depends on the episode before."""

    num_pushes = 0

    def step(self, action):
        self.num_pushes += 1
        return super().step(action)

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed + self.num_pushes)


class OneStart(ClevrRobotEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed % 3)


class Breaks(ClevrRobotEnv):
    def step(self, action):
        if action == 17:
            raise RuntimeError("gripper lost")
        return super().step(action)


class StopsEarly(ClevrRobotEnv):
    num_steps = 0

    def reset(self, *, seed=None, options=None):
        self.num_steps = 0
        return super().reset(seed=seed)

    def step(self, action):
        self.num_steps += 1
        state, reward, terminated, _, info = super().step(action)
        return state, reward, terminated, self.num_steps >= 20, info


FAULTS = [
    (NoEasyGoals, "split 'easy' has no goals"),
    (NoSuchSplit, "Each of the four splits has goals. KeyError: 'rephrase'"),
    (GoalsOfAnotherSplit, "task.goals('easy') holds goals of another split: pair/"),
    (TrainGoalInHard, "goals stand in more than one split, which only train and rephrase may share: 'pair/"),
    (LeakedPhrasing, "phrasings leak from one split to another"),
    (
        ReachedAtReset,
        "goals hold at reset already; task.is_valid_start must refuse such starts: goal 'line' with seed 0",
    ),
    (SilentAtTimes, "task.describe gives ' ' for a reached state"),
    (DescribesInBytes, "task.describe gives b'The red"),
    (LosesItsWords, "task.describe makes a text of every reached state. KeyError: 'beyond'"),
    (LongWinded, "more than the observation space holds"),
    (NoActionTexts, "task.action_texts gives None although actions are discrete"),
    (UnknownActionText, "task.parse_action does not know 'push the pink ball left'"),
    (
        TwoTextsForOneAction,
        "'push the red ball behind and left' and 'PUSH THE RED BALL BEHIND AND LEFT', name the same",
    ),
    (ActionsFromOne, "gives 40, which is not in Discrete(40)"),
    (NonsenseIsAnAction, "task.parse_action('xyzzy') gives 0: it must raise InvalidAction"),
    (NonsenseIsAKeyError, "task.parse_action('xyzzy') must raise InvalidAction, not KeyError"),
    (AchievedOnlyAtLast, "task.achieved gives shape () for 40 rows"),
    (AchievedIsANumber, "task.achieved gives float32: it must give bool"),
    (AchievedMovesTheTable, "task.achieved changes its input"),
    (StartIsTheLastState, "task.achieved without start must take the first of the states"),
    (AchievedDropsABatchAxis, "task.achieved gives shape (80,) for leading axes (2, 40)"),
    (AchievedLooksAtTheBatch, "task.achieved gives something else for a batch than for its rows one by one"),
    (RewardLooksAtTheBatch, "task.reward gives something else for a batch"),
    (RewardIsASum, "task.reward gives shape () for 40 rows"),
    (RewardIsNotANumber, "it must be finite"),
    (PlausibleIsOneAnswer, "task.plausible gives shape ()"),
    (PlausibleWritesActions, "task.plausible changes its input"),
    (PushesAreImplausible, "of real transitions: it may refuse 1%"),
    (ProjectMovesRealStates, "real states: it must leave them as they are"),
    (ProjectWorksInPlace, "task.project changes its input"),
    (ProjectLosesAnAxis, "task.project gives float32 of shape (10,) for float32 of shape ("),
    (ProjectDoublesPrecision, "task.project gives float64"),
    (StartableIsOneAnswer, "task.is_valid_start gives shape ()"),
    (EndlessHorizon, "task.horizon gives 50.0"),
    (Lying, 'info["is_success"] was True at step 2'),
    (NeverTruncates, "goes on after 50 steps: it must be truncated"),
    (AnyOption, "reset(options={'no such option': 'no such name'}) goes through"),
    (AnyGoal, "reset(options={'goal': 'no such name'}) goes through"),
    (SplitIsAKey, "reset(options={'split': 'no such name'}) must raise a ValueError, not KeyError"),
    (RememberedWords, "two resets with seed 0 and goal 'pair/behind/red/blue' differ"),
    (DeafToSeeds, "two resets with seed 0 and goal 'pair/behind/red/blue' differ"),
    (DriftsWithUse, "differs after an episode for"),
    (OneStart, "different start(s) for goal 'pair/behind/red/blue'"),
    (Breaks, "RuntimeError: gripper lost"),
    (StopsEarly, "was truncated after 20 steps although task.horizon gives 50"),
]


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize(("fault", "said"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_each_fault_is_found_and_told(fault, said):
    place = "task" if issubclass(fault, ClevrRobotTask) else "wrapper" if issubclass(fault, LanguageEnv) else "physics"
    with pytest.raises(LanguageEnvError) as told:
        check(**{place: fault})
    assert said in str(told.value)


def test_all_faults_are_told_at_once():
    class Two(NoEasyGoals, NonsenseIsAnAction):
        pass

    with pytest.raises(LanguageEnvError, match="Two has ") as told:
        check(Two)
    assert "split 'easy' has no goals" in str(told.value)
    assert "'xyzzy'" in str(told.value)


def test_a_fault_is_told_apart_from_what_is_sound():
    """One planted fault is one problem: the checker does not blame its neighbours."""
    with pytest.raises(LanguageEnvError, match=r"has 1 problem\(s\):\n  - task.horizon"):
        check(EndlessHorizon)


def test_one_seed_is_too_few():
    with pytest.raises(ValueError, match="at least 2"):
        check_language_env(LanguageEnv(ClevrRobotEnv(), ClevrRobotTask()), num_seeds=1)
