"""CLEVR-Robot with one fault planted in its goals, its words, its predicates, its wrapper or its physics."""

import dataclasses

import numpy as np

from envs.clevr_robot.env import ClevrRobotEnv
from envs.clevr_robot.task import ACTION_TEXTS, ClevrRobotTask
from envs.goals import UnknownGoal
from envs.language import InvalidAction, LanguageEnv

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
