"""What LLM agents are shown, and what is left out where it does not fit."""

import pickle
from functools import partial

import gymnasium
import numpy as np
import pytest
from helpers.extras import NEEDS_ENCODER
from helpers.llm_worlds import ACTIONS, CASES, CorridorTask, WordlessTask, make_env, make_lm, start
from pydantic import ValidationError

from envs.clevr_robot import make as make_clevr_robot
from envs.clevr_robot.task import ClevrRobotTask
from llm_agents.agents.memory import Experience, MemorySettings, TextualMemory, experience_of, word_overlap
from llm_agents.agents.prompts import MAX_CACHED_LINES, PromptRenderer, PromptSettings
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.rollouts.observation import ActionWords, AgentObservation, PastStep, observations_of
from llm_agents.rollouts.panels import make_panel
from llm_agents.rollouts.rollout import ActionOutput, RunningEpisode, rollout
from llm_agents.runtime.errors import UserError

OBSERVATION = AgentObservation(
    instruction="go to place 3",
    text="You are at place 1",
    actions=ACTIONS[:2],
    past=tuple(PastStep(f"You are at place {n}", ACTIONS, action) for n, action in enumerate(ACTIONS)),
)


class Memories:
    """Remembers the same of every goal."""

    def __init__(self, *memories: str) -> None:
        self._memories = list(memories)

    def retrieve(self, goal: str) -> list[str]:
        return self._memories


GLAM = PromptSettings(num_past_actions=2, num_past_observations=2)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return make_lm(max_length=512)


def text(lm: LanguageModel, prompt: list[int]) -> str:
    """A prompt as text, without the space that this tokenizer puts before each line."""
    return "\n".join(line.strip() for line in lm.tokenizer.decode(prompt).split("\n"))


def test_the_lines_are_those_of_glam(lm):
    observation = AgentObservation(
        "go to place 3", "You are at place 1", ACTIONS[:2], (PastStep("You are at place 0", action="step right"),)
    )
    (prompt,) = PromptRenderer(lm, GLAM).prompts([observation], 0)
    assert text(lm, prompt) == (
        "Possible action of the agent: wait, step left\n"
        "Goal of the agent: go to place 3\n"
        "Observation: You are at place 0\n"
        "Action: step right\n"
        "Observation: You are at place 1\n"
        "Action:"
    )


def test_every_line_can_be_worded_otherwise(lm):
    settings = PromptSettings(
        preamble="Think first.",
        list_actions=False,
        goal_line="I would like the agent to {goal}",
        memory_line="Once {memory}",
        observation_line="See: {observation}",
        action_line="Do: {action}",
        invalid_line="No.",
        ending="Thought:",
    )
    observation = AgentObservation("g", "o", ("a",), (PastStep("p", action="b"),), invalid=True)
    expected = "Think first.\nI would like the agent to g\nOnce m\nDo: b\nNo.\nSee: o\nThought:"
    assert "".join(PromptRenderer(lm, settings, Memories("m")).lines(observation)) == expected


def test_the_goal_can_stand_last_and_nothing_else_moves(lm):
    first, last = (PromptRenderer(lm, PromptSettings(goal_place=place)) for place in ("first", "last"))
    goal = "Goal of the agent: go to place 3\n"
    rest = [line for line in first.lines(OBSERVATION) if line != goal]
    assert last.lines(OBSERVATION) == [*rest[:-1], goal, rest[-1]]
    (prompt,) = last.prompts([OBSERVATION], 0)
    assert text(lm, prompt) == text(lm, [token for line in last.lines(OBSERVATION) for token in last._ids([line])])


def test_a_goal_that_stands_last_stands_once_behind_each_observation_of_a_history(lm):
    prompt_renderer = PromptRenderer(lm, PromptSettings(goal_place="last"))
    assert "place 3" not in text(lm, prompt_renderer.opening(OBSERVATION))
    assert text(lm, prompt_renderer.next(OBSERVATION, OBSERVATION.actions)) == (
        "Observation: You are at place 1\nGoal of the agent: go to place 3\nAction:"
    )


def test_texts_with_braces_stand_as_they_are(lm):
    observation = AgentObservation("{goal} {0}", "{", ("}",))
    lines = PromptRenderer(lm, PromptSettings()).lines(observation)
    assert lines[1:3] == ["Goal of the agent: {goal} {0}\n", "Observation: {\n"]


@pytest.mark.parametrize(
    ("past_actions", "past_observations", "expected"),
    [(0, 0, []), (2, 0, [("", 1), ("", 2)]), (3, 2, [("", 0), (1, 1), (2, 2)]), (9, 9, [(0, 0), (1, 1), (2, 2)])],
)
def test_as_much_of_the_past_is_shown_as_the_settings_say(lm, past_actions, past_observations, expected):
    settings = PromptSettings(num_past_actions=past_actions, num_past_observations=past_observations)
    task = ClevrRobotTask()
    (episode, *_) = rollout(RandomAgent(), make_clevr_robot, make_panel(task, "hard", 3).specs)
    assert len(episode) > 3
    observation = observations_of(task, episode)[3]
    before = [step.action for step in observation.past]
    assert [task.parse_action(action) for action in before] == episode.actions[:3].tolist()
    lines = [
        line
        for seen, done in expected
        for line in (
            *([] if seen == "" else [f"Observation: {task.describe(episode.states[seen])}\n"]),
            f"Action: {before[done]}\n",
        )
    ]
    assert PromptRenderer(lm, settings).lines(observation)[2:-2] == lines


def test_a_running_and_a_stored_episode_are_told_alike():
    told = {}

    class Watching:
        def act(self, observations):
            for observation in observations:
                told.setdefault(id(observation.rng), []).append(observation)
            return [ActionOutput(text=observation.actions[-1]) for observation in observations]

    episodes = rollout(Watching(), make_env, CASES, num_envs=3)
    stored = [observations_of(make_env().task, episode) for episode in episodes]
    assert sorted([len(o) for o in told.values()]) == sorted([len(o) - 1 for o in stored])
    for shown in told.values():
        assert shown in [observations[:-1] for observations in stored]


def test_what_an_agent_is_shown_leads_to_no_environment():
    """Not through any attribute of the record, nor of what it holds."""
    episode = start(CASES[1])
    reached, waiting = set(), [episode.observe()]
    while waiting:
        thing = waiting.pop()
        if id(thing) in reached or isinstance(thing, str | int | float | bool | np.ndarray | type(None)):
            continue
        reached.add(id(thing))
        assert not isinstance(thing, gymnasium.Env | CorridorTask | RunningEpisode)
        waiting += (
            thing if isinstance(thing, tuple | list) else vars(thing).values() if hasattr(thing, "__dict__") else []
        )
    pickle.loads(pickle.dumps(episode.observe()))  # it can be sent to another machine


# What does not fit


def fit(
    lm: LanguageModel, observation: AgentObservation, reserved_tokens: int, settings: PromptSettings
) -> tuple[str, int]:
    renderer = PromptRenderer(lm, settings, Memories("it is far", "it is near") if observation.past else None)
    (prompt,) = renderer.prompts([observation], reserved_tokens)
    return text(lm, prompt), len(prompt)


def test_the_oldest_history_is_left_out_first_then_the_last_memory_then_it_is_an_error(lm):
    settings = PromptSettings(num_past_actions=4, num_past_observations=4)
    whole, size = fit(lm, OBSERVATION, 0, settings)
    bare = AgentObservation(OBSERVATION.instruction, OBSERVATION.text, OBSERVATION.actions)
    _, least = fit(lm, bare, 0, settings)
    seen = []
    for reserved_tokens in range(lm.context_length - size, lm.context_length - least + 1):
        shown, length = fit(lm, OBSERVATION, reserved_tokens, settings)
        assert length + reserved_tokens <= lm.context_length
        if not seen or seen[-1] != shown:
            seen.append(shown)
    rows = whole.split("\n")
    head, memories, past, tail = rows[:2], rows[2:4], rows[4:12], rows[12:]
    expected = [[*head, *memories, *past[2 * dropped :], *tail] for dropped in range(5)]
    expected += [[*head, *memories[: 1 - dropped], *tail] for dropped in range(2)]
    assert seen == ["\n".join(part) for part in expected]
    with pytest.raises(UserError, match=f"a prompt of {least} tokens without any history does not fit into the"):
        fit(lm, OBSERVATION, lm.context_length - least + 1, settings)


def test_lines_are_tokenised_once_and_not_kept_for_ever(lm, monkeypatch):
    prompt_renderer = PromptRenderer(lm, PromptSettings())
    first = prompt_renderer.prompts([OBSERVATION], 0)
    monkeypatch.setattr("llm_agents.agents.prompts.MAX_CACHED_LINES", 3)
    assert len(prompt_renderer._cache) > 3
    tokenizer = lm.tokenizer
    asked = []
    monkeypatch.setattr(lm, "tokenizer", lambda lines, **options: asked.append(lines) or tokenizer(lines, **options))
    assert prompt_renderer.prompts([OBSERVATION], 0) == first
    assert len(asked) == 1
    assert len(asked[0]) == len(set(prompt_renderer.lines(OBSERVATION)))
    monkeypatch.setattr("llm_agents.agents.prompts.MAX_CACHED_LINES", MAX_CACHED_LINES)
    assert prompt_renderer.prompts([OBSERVATION], 0) == first
    assert len(asked) == 1


# Mistakes


@pytest.mark.parametrize("line", ["Goal:", "Goal: {gaol}", "Goal: {goal} {", "Goal: {}"])
def test_a_line_must_say_where_its_field_stands(line):
    with pytest.raises(ValidationError, match="must say where the goal stands"):
        PromptSettings(goal_line=line)


def test_more_observations_than_actions_are_refused():
    with pytest.raises(ValidationError, match="may not exceed num_past_actions"):
        PromptSettings(num_past_actions=1, num_past_observations=2)


@NEEDS_ENCODER
def test_a_model_that_reads_through_an_encoder_is_refused():
    with pytest.raises(UserError, match="text_input to 'words'"):
        PromptRenderer(load_language_model("tiny"), PromptSettings())


class Jumping:
    """Does not say in words what it does."""

    def act(self, observations):
        return [ActionOutput(2) for _ in observations]


def test_past_actions_without_words_are_refused_where_they_would_be_shown(lm):
    (episode, *_) = rollout(Jumping(), partial(make_env, WordlessTask), CASES)
    observation = observations_of(WordlessTask(), episode)[-1]
    assert observation.actions == ()
    with pytest.raises(UserError, match=r"set prompts\.num_past_actions to 0"):
        PromptRenderer(lm, PromptSettings()).prompts([observation], 0)
    assert PromptRenderer(lm, PromptSettings(num_past_actions=0)).prompts([observation], 0)


# Memory in the prompt


def test_what_is_remembered_stands_in_the_prompt(lm):
    memory = TextualMemory(MemorySettings(), word_overlap)
    memory.add([Experience("go to place 3", ("wait", "step right"), success=True)])
    lines = PromptRenderer(lm, GLAM, memory).lines(start(CASES[3]).observe())
    assert "Experience: 'go to place 3' was reached by: wait, step right.\n" in lines


def test_an_episode_is_remembered_in_words():
    task = ClevrRobotTask()
    (episode,) = rollout(ExpertAgent(task), make_clevr_robot, make_panel(task, "train", 1).specs)
    experience = experience_of(episode, ActionWords(task))
    assert [task.parse_action(action) for action in experience.actions] == episode.actions.tolist()
    assert (experience.goal, experience.success) == (episode.instruction, episode.success)
