"""What LLM agents are shown, and what is left out where it does not fit."""

import pytest
from helpers.extras import NEEDS_ENCODER
from helpers.llm_worlds import ACTIONS, CASES, WordlessTask, make_env, make_lm, start
from pydantic import ValidationError

from envs.clevr_robot import make as make_clevr_robot
from envs.clevr_robot.task import ClevrRobotTask
from llm_agents.agents.memory import Experience, MemorySettings, TextualMemory, word_overlap
from llm_agents.agents.observations import AgentObservation, Past
from llm_agents.agents.prompts import MAX_CACHED_LINES, PromptRenderer, PromptSettings
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.rollouts.panels import make_panel
from llm_agents.rollouts.rollout import ActionOutput, rollout
from llm_agents.runtime.errors import UserError

MOMENT = AgentObservation(
    goal="go to place 3",
    observation="You are at place 1",
    actions=ACTIONS[:2],
    past=tuple(Past(f"You are at place {n}", action) for n, action in enumerate(ACTIONS)),
    memories=("it is far", "it is near"),
)
GLAM = PromptSettings(num_past_actions=2, num_past_observations=2)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    return make_lm(max_length=512)


def text(lm: LanguageModel, prompt: list[int]) -> str:
    """A prompt as text, without the space that this tokenizer puts before each line."""
    return "\n".join(line.strip() for line in lm.tokenizer.decode(prompt).split("\n"))


def test_the_lines_are_those_of_glam(lm):
    moment = AgentObservation(
        "go to place 3", "You are at place 1", ACTIONS[:2], (Past("You are at place 0", "step right"),)
    )
    (prompt,) = PromptRenderer(lm, GLAM).prompts([moment], 0)
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
    moment = AgentObservation("g", "o", ("a",), (Past("", "b"),), ("m",), invalid=True)
    expected = "Think first.\nI would like the agent to g\nOnce m\nDo: b\nNo.\nSee: o\nThought:"
    assert "".join(PromptRenderer(lm, settings).lines(moment)) == expected


def test_the_goal_can_stand_last_and_nothing_else_moves(lm):
    first, last = (PromptRenderer(lm, PromptSettings(goal_place=place)) for place in ("first", "last"))
    goal = "Goal of the agent: go to place 3\n"
    rest = [line for line in first.lines(MOMENT) if line != goal]
    assert last.lines(MOMENT) == [*rest[:-1], goal, rest[-1]]
    (prompt,) = last.prompts([MOMENT], 0)
    assert text(lm, prompt) == text(lm, [token for line in last.lines(MOMENT) for token in last._ids([line])])


def test_a_goal_that_stands_last_stands_once_behind_each_observation_of_a_history(lm):
    prompt_renderer = PromptRenderer(lm, PromptSettings(goal_place="last"))
    assert "place 3" not in text(lm, prompt_renderer.opening(MOMENT))
    assert text(lm, prompt_renderer.next(MOMENT, MOMENT.actions)) == (
        "Observation: You are at place 1\nGoal of the agent: go to place 3\nAction:"
    )


def test_texts_with_braces_stand_as_they_are(lm):
    moment = AgentObservation("{goal} {0}", "{", ("}",))
    lines = PromptRenderer(lm, PromptSettings()).lines(moment)
    assert lines[1:3] == ["Goal of the agent: {goal} {0}\n", "Observation: {\n"]


@pytest.mark.parametrize(
    ("past_actions", "past_observations", "expected"),
    [(0, 0, []), (2, 0, [("", 1), ("", 2)]), (3, 2, [("", 0), (1, 1), (2, 2)]), (9, 9, [(0, 0), (1, 1), (2, 2)])],
)
def test_the_window_of_history_is_that_of_the_settings(past_actions, past_observations, expected):
    settings = PromptSettings(num_past_actions=past_actions, num_past_observations=past_observations)
    task = ClevrRobotTask()
    (episode, *_) = rollout(RandomAgent(), make_clevr_robot, make_panel(task, "hard", 3).specs)
    assert len(episode) > 3
    past = settings.context_builder().of_episode(task, episode)[3].past
    assert len(past) == len(expected)
    for step, (seen, done) in zip(past, expected, strict=True):
        assert step.observation == ("" if seen == "" else task.describe(episode.states[seen]))
        assert task.parse_action(step.action) == episode.actions[done]


def test_a_running_and_a_stored_episode_are_told_alike():
    settings = PromptSettings(num_past_actions=3, num_past_observations=1)
    context_builder, told = settings.context_builder(), {}

    class Watching:
        def act(self, episodes):
            moments = [context_builder.of_running(episode) for episode in episodes]
            for episode, moment in zip(episodes, moments, strict=True):
                told.setdefault(episode.index, []).append(moment)
            return [
                ActionOutput(episode.env.task.parse_action(moment.actions[-1]))
                for episode, moment in zip(episodes, moments, strict=True)
            ]

    episodes = {episode.seed: episode for episode in rollout(Watching(), make_env, CASES, num_envs=3)}
    for index, spec in enumerate(CASES):
        assert settings.context_builder().of_episode(make_env().task, episodes[spec.seed])[:-1] == told[index]


# What does not fit


def fit(lm: LanguageModel, moment: AgentObservation, reserved_tokens: int, settings: PromptSettings) -> tuple[str, int]:
    (prompt,) = PromptRenderer(lm, settings).prompts([moment], reserved_tokens)
    return text(lm, prompt), len(prompt)


def test_the_oldest_history_is_left_out_first_then_the_last_memory_then_it_is_an_error(lm):
    settings = PromptSettings(num_past_actions=4, num_past_observations=4)
    whole, size = fit(lm, MOMENT, 0, settings)
    bare = AgentObservation(MOMENT.goal, MOMENT.observation, MOMENT.actions)
    _, least = fit(lm, bare, 0, settings)
    seen = []
    for reserved_tokens in range(lm.context_length - size, lm.context_length - least + 1):
        shown, length = fit(lm, MOMENT, reserved_tokens, settings)
        assert length + reserved_tokens <= lm.context_length
        if not seen or seen[-1] != shown:
            seen.append(shown)
    rows = whole.split("\n")
    head, memories, past, tail = rows[:2], rows[2:4], rows[4:12], rows[12:]
    expected = [[*head, *memories, *past[2 * dropped :], *tail] for dropped in range(5)]
    expected += [[*head, *memories[: 1 - dropped], *tail] for dropped in range(2)]
    assert seen == ["\n".join(part) for part in expected]
    with pytest.raises(UserError, match=f"a prompt of {least} tokens without any history does not fit into the"):
        fit(lm, MOMENT, lm.context_length - least + 1, settings)


def test_lines_are_tokenised_once_and_not_kept_for_ever(lm, monkeypatch):
    prompt_renderer = PromptRenderer(lm, PromptSettings())
    first = prompt_renderer.prompts([MOMENT], 0)
    monkeypatch.setattr("llm_agents.agents.prompts.MAX_CACHED_LINES", 3)
    assert len(prompt_renderer._cache) > 3
    tokenizer = lm.tokenizer
    asked = []
    monkeypatch.setattr(lm, "tokenizer", lambda lines, **options: asked.append(lines) or tokenizer(lines, **options))
    assert prompt_renderer.prompts([MOMENT], 0) == first
    assert len(asked) == 1
    assert len(asked[0]) == len(set(prompt_renderer.lines(MOMENT)))
    monkeypatch.setattr("llm_agents.agents.prompts.MAX_CACHED_LINES", MAX_CACHED_LINES)
    assert prompt_renderer.prompts([MOMENT], 0) == first
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


def test_past_actions_without_words_are_refused():
    episode = start(CASES[1], WordlessTask)
    context_builder = PromptSettings().context_builder()
    assert context_builder.of_running(episode).actions == ()
    observation, *_ = episode.env.step(2)
    episode.states.append(observation["state"])
    episode.actions.append(2)
    with pytest.raises(UserError, match="WordlessTask has no action texts"):
        context_builder.of_running(episode)


# Memory in the prompt


def test_what_is_remembered_stands_in_the_prompt(lm):
    memory = TextualMemory(MemorySettings(), word_overlap)
    memory.add([Experience("go to place 3", ("wait", "step right"), success=True)])
    moment = PromptSettings().context_builder(memory).of_running(start(CASES[3]))
    assert "Experience: 'go to place 3' was reached by: wait, step right.\n" in PromptRenderer(lm, GLAM).lines(moment)


def test_an_episode_is_remembered_in_words():
    task = ClevrRobotTask()
    (episode,) = rollout(ExpertAgent(task), make_clevr_robot, make_panel(task, "train", 1).specs)
    experience = PromptSettings().context_builder().experience(task, episode)
    assert [task.parse_action(action) for action in experience.actions] == episode.actions.tolist()
    assert (experience.goal, experience.success) == (episode.instruction, episode.success)
