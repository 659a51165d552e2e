"""LanguageEnv around environments that no one here wrote, and the adapters for those that speak already."""

import random
import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from helpers.extras import NEEDS_MINIGRID, need

from envs.adapters import AdaptedTask, StringEnv, adapt, decode_text, encode_text
from envs.goals import SPLITS, Goal, GoalSet
from envs.language import InvalidAction, LanguageEnv, LanguageEnvError, LanguageTask, check_language_env, start_of


class MoveOn(LanguageTask):
    """A goal for any environment: come to a state in which some number differs from the start by so much."""

    def __init__(self, space: spaces.Space, by: float) -> None:
        self.space, self.by = space, by
        self.goal_set = GoalSet(Goal(f"move/{split}", "move", split, (f"move on ({split})",)) for split in SPLITS)

    def describe(self, state):
        return " ".join(f"{number:.3f}" for number in state)

    def action_texts(self, state):
        return [f"action {i}" for i in range(self.space.n)] if isinstance(self.space, spaces.Discrete) else None

    def parse_action(self, text):
        try:
            numbers = [float(word) for word in text.removeprefix("action ").split()]
            action = np.array(numbers, self.space.dtype).reshape(self.space.shape)
        except ValueError:
            raise InvalidAction(text) from None
        return action if self.space.contains(action) else self._refuse(text)

    def _refuse(self, text):
        raise InvalidAction(text)

    def achieved(self, goal, states, start=None):
        return np.abs(np.asarray(states) - start_of(states, start)).max(-1) > self.by

    def reward(self, goal, states, next_states, start=None):
        return self.achieved(goal, next_states, start_of(states, start)).astype(np.float32)

    def horizon(self, goal):
        return 12


class TwoDials(gymnasium.ActionWrapper):
    """Pendulum, pushed by a coarse and a fine dial."""

    def __init__(self):
        super().__init__(gymnasium.make("Pendulum-v1"))
        self.action_space = spaces.MultiDiscrete([3, 5])

    def action(self, action):
        return np.array([action[0] - 1 + (action[1] - 2) / 5], np.float32)


class InWords(gymnasium.ObservationWrapper):
    """Taxi, whose observation is a text."""

    def __init__(self):
        super().__init__(gymnasium.make("Taxi-v4"))
        self.observation_space = spaces.Text(60)

    def observation(self, observation):
        return "taxi {} {} passenger {} destination {}".format(*self.unwrapped.decode(observation)).replace(" ", "x")


class InParts(gymnasium.ObservationWrapper):
    """CartPole, whose observation is a dictionary."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        half = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict({"cart": half, "pole": half})

    def observation(self, observation):
        return {"cart": observation[:2].astype(float), "pole": observation[2:].astype(float)}


ENVIRONMENTS = {
    "CartPole-v1": (lambda: gymnasium.make("CartPole-v1"), 0.3),
    "Taxi-v4": (lambda: gymnasium.make("Taxi-v4"), 0.5),
    "MountainCarContinuous-v0": (lambda: gymnasium.make("MountainCarContinuous-v0"), 0.004),
    "Pendulum-v1": (lambda: gymnasium.make("Pendulum-v1"), 0.8),
    "multi-discrete": (TwoDials, 0.8),
    "dictionary": (InParts, 0.3),
    "text": (InWords, 0.5),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_any_environment_takes_a_task(name):
    make, by = ENVIRONMENTS[name]
    env = make()
    wrapped = LanguageEnv(env, MoveOn(env.action_space, by))
    check_language_env(wrapped, 8)
    check_env(wrapped, skip_render_check=True)


@pytest.mark.parametrize("name", ["FrozenLake-v1", "Blackjack-v1"])
def test_an_environment_with_few_starts_is_played_too(name):
    env = gymnasium.make(name)
    wrapped = LanguageEnv(env, MoveOn(env.action_space, 0.5))
    check_env(wrapped, skip_render_check=True)
    observation, _ = wrapped.reset(seed=0)
    assert observation["state"].sum() == (3 if name == "Blackjack-v1" else 1)  # a one for each Discrete part


@NEEDS_MINIGRID
def test_an_observation_that_is_no_numbers_is_refused_with_the_way_in():
    with pytest.raises(ValueError, match=r"see envs\.adapters\.adapt"):
        LanguageEnv(gymnasium.make("minigrid:BabyAI-GoToObj-v0"), MoveOn(spaces.Discrete(7), 1))


# An environment with a mission

BABYAI_ACTIONS = ("turn left", "turn right", "go forward", "pick up", "drop", "toggle", "done")


def babyai_goals():
    for split, colours in {"train": "red|green|blue", "easy": "purple|yellow", "hard": "grey"}.items():
        says = {"train": ("{mission}", "please {mission}"), "easy": ("now {mission}",), "hard": ("you {mission}",)}
        for thing in ("ball", "box", "key"):
            yield Goal(f"go to the ({colours}) {thing}", thing, split, says[split])
            if split == "train":
                yield Goal(f"go to the ({colours}) {thing}", thing, "rephrase", ("would you kindly {mission}?",))


def in_front(observation):
    return f"You face {observation['direction']}; ahead of you is {observation['image'][3, 5].tolist()}."


def adapted_babyai(**changes) -> LanguageEnv:
    need("minigrid")
    options = {"text": in_front, "mission": "mission", "actions": BABYAI_ACTIONS, "horizon": 20} | changes
    return adapt(gymnasium.make("minigrid:BabyAI-GoToObj-v0"), babyai_goals(), **options)


def test_an_environment_with_missions_keeps_the_contract():
    env = adapted_babyai()
    check_language_env(env, 12)
    check_env(env, skip_render_check=True)


def test_the_mission_suits_the_goal_and_is_in_the_words():
    env = adapted_babyai()
    goal = env.task.goals("rephrase")[1]
    for seed in range(5):
        observation, info = env.reset(seed=seed, options={"goal": goal.id, "split": "rephrase"})
        mission = env.unwrapped.env.env.unwrapped.mission
        assert re.fullmatch(goal.id, mission)
        assert observation["goal"] == f"would you kindly {mission}?"
        assert not info["is_success"]
        assert observation["text"].startswith("You face ")


def test_the_flag_of_one_mission_is_no_success_at_another():
    env = adapted_babyai()
    balls, boxes, _ = env.task.goals("train")
    env.reset(seed=0, options={"goal": balls.id})
    state = env.state.copy()
    state[0] = 1
    many = np.stack([state, env.state, state])[None]
    assert env.task.achieved(balls, many).tolist() == [[True, False, True]]
    assert not env.task.achieved(boxes, many).any()


def test_reaching_the_object_is_success_with_the_environments_own_reward():
    env = adapted_babyai(horizon=64)
    random_actions = random.Random(0)
    for seed in range(60):
        env.reset(seed=seed)
        ended = False
        while not ended:
            _, reward, terminated, truncated, info = env.step(random_actions.randrange(3))
            ended = terminated or truncated
            assert info["is_success"] == terminated == (reward > 0)
        if terminated:
            return
    raise AssertionError("the object was never reached")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": "words"}, "text='words' is no key"),
        ({"text": None}, "say where its text is"),
        ({"mission": None}, r"observation\['mission'\] is .* text= or mission="),
        ({"actions": None}, "each of the 7 actions in words of its own, got none"),
        ({"actions": BABYAI_ACTIONS[:3]}, "got 3 different ones"),
    ],
)
def test_what_does_not_fit_is_told(changes, message):
    with pytest.raises(ValueError, match=message):
        adapted_babyai(**changes)


def test_a_text_that_is_too_long_is_told():
    with pytest.raises(ValueError, match=r"characters, 9 were set aside: adapt\(\.\.\., max_text"):
        adapted_babyai(max_text=9).reset(seed=0)


def test_a_success_that_info_does_not_tell_is_told():
    env = adapted_babyai(success="won")
    env.reset(seed=0)
    with pytest.raises(ValueError, match="success='won' is no key"):
        env.step(0)


def test_continuous_actions_are_read_from_words():
    goals = [Goal(split, "swing", split, (f"swing up ({split})",)) for split in SPLITS]
    env = adapt(gymnasium.make("Pendulum-v1"), goals, text=str, horizon=5)
    check_language_env(env, 4)
    assert env.task.parse_action("1.5").tolist() == [1.5]
    for text in ("3.5", "1 1", "left"):
        with pytest.raises(InvalidAction):
            env.task.parse_action(text)
    dials = adapt(TwoDials(), goals, text=str, horizon=5)
    assert dials.task.parse_action("2, 4").tolist() == [2, 4]
    with pytest.raises(InvalidAction):
        dials.task.parse_action("0.5 1")


# Environments of strings


class GuessTheNumber:
    """A game of GEM's kind: find a number between 1 and ``top``."""

    def reset(self, seed=None, top=9):
        self.number = random.Random(seed).randint(1, top)
        return f"Guess a number between 1 and {top}. A hint: it is {'odd' if self.number % 2 else 'even'}.", {}

    def step(self, action):
        if not action.strip().isdigit():
            return f"{action[:10]!r} is no number — try again.", -0.1, False, False, {}
        guess = int(action)
        said = "yes!" if guess == self.number else f"my number is {'larger' if guess < self.number else 'smaller'}"
        return said, float(guess == self.number), guess == self.number, False, {}


TOPS = {"train": 9, "rephrase": 9, "easy": 19, "hard": 99}


def guessing_goals():
    for split, top in TOPS.items():
        yield Goal(f"guess/{top}", "guess", split, (f"find my number ({split})",))


def guessing() -> LanguageEnv:
    options = {f"guess/{top}": {"top": top} for top in TOPS.values()}
    return adapt(StringEnv(GuessTheNumber()), guessing_goals(), horizon=6, reset_options=options, max_text=80)


def test_a_string_environment_is_played_in_words():
    env = guessing()
    observation, info = env.reset(seed=3, options={"split": "hard"})
    assert observation["goal"] == "find my number (hard)"
    assert observation["text"].startswith("Guess a number between 1 and 99")
    low, high, terminated = 1, 99, False
    env.step("a dozen")
    assert env.task.describe(env.state) == "'a dozen' is no number — try again."
    for _ in range(5):
        guess = (low + high) // 2
        observation, reward, terminated, truncated, info = env.step(str(guess))
        low, high = (guess + 1, high) if "larger" in observation["text"] else (low, guess - 1)
        if terminated:
            break
    assert terminated == info["is_success"] == (reward == 1.0)
    assert terminated or truncated


def test_a_string_environment_keeps_the_contract():
    class OfLetters(StringEnv):
        """Its starts, two hints a split, are fewer than the checker asks for."""

        def reset(self, *, seed=None, options=None):
            text, info = super().reset(seed=seed, options=options)
            return f"{text} ({seed})", info

    env = adapt(OfLetters(GuessTheNumber()), guessing_goals(), horizon=6, max_text=100)
    check_language_env(env, 8)
    check_env(env, skip_render_check=True)


def test_what_a_string_environment_begins_with_can_be_the_mission():
    goals = [
        Goal(r"Guess .* odd\.", "odd", "train", ("{mission}",)),
        Goal(r"Guess .* even\.", "even", "hard", ("{mission} Do!",)),
    ]
    env = adapt(StringEnv(GuessTheNumber()), goals, horizon=6, mission="mission", max_text=80)
    assert env.reset(seed=0)[0]["goal"].endswith("it is odd.")
    assert env.reset(seed=0, options={"split": "hard"})[0]["goal"].endswith("it is even. Do!")


def test_the_checker_hears_missions_that_overlap():
    goals = [Goal("Guess .*", "a", "train", ("{mission}",)), Goal("Guess.*", "b", "hard", ("{mission}",))]
    env = adapt(StringEnv(GuessTheNumber()), goals, horizon=3, mission="mission", max_text=80)
    with pytest.raises(LanguageEnvError, match="phrasings leak from one split to another"):
        check_language_env(env, 8)


@pytest.mark.parametrize("text", ["", "plain", "naïve 日本語 🦊"])
def test_texts_come_back_from_their_codes(text):
    assert decode_text(encode_text(text, 20)) == text


def test_codes_that_a_model_imagined_are_read_as_far_as_they_go():
    assert decode_text(np.array([104.3, 104.6, -3, np.nan, 55296, 1e9], np.float32)) == "hi"


def test_the_adapted_task_offers_free_text_for_free_text_only():
    task = guessing().task
    assert isinstance(task, AdaptedTask)
    assert task.action_texts(np.zeros(3)) is None
    assert task.parse_action("anything at all") == "anything at all"
