"""What a warm start teaches before it clones: to recall what is seen."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.extras import need
from helpers.llm_worlds import make_lm

from envs.episodes import Episode
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.agents.scripted import ExpertAgent, RandomAgent
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.models.tiny import TinySettings
from llm_agents.models.tokenizer import words_of
from llm_agents.registry.environments import make_environment
from llm_agents.rollouts.observation import AgentObservation, observations_of
from llm_agents.rollouts.rollout import rollout
from llm_agents.rollouts.specs import draw_specs
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import seeded, stream
from llm_agents.training.associative_recall import ask_for_goals, ask_for_parts
from llm_agents.training.loop import OptimizerSettings, fit
from llm_agents.training.warm_start import (
    BehaviourCloningLoss,
    SFTDataset,
    WarmStartData,
    WarmStartSettings,
    with_noise,
)

PROMPTS = PromptSettings(
    list_actions=False,
    num_past_actions=0,
    goal_place="last",
    goal_line="{goal}",
    observation_line="{observation}",
    ending="go",
)


def make_env():
    need("minigrid")
    return make_environment("envs:BabyAIText-v0", level="BabyAI-GoToLocal-v0")


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    task = make_env().task
    return list(rollout(ExpertAgent(task), make_env, draw_specs(task, "train", 40, 0)))


@pytest.fixture(scope="module")
def observations(episodes) -> list[AgentObservation]:
    task = make_env().task
    return [observation for episode in episodes for observation in observations_of(task, episode)[:-1]]


@pytest.fixture(scope="module", params=["words", "phrases"])
def lm(request, observations) -> LanguageModel:
    corpus = [
        text
        for observation in observations
        for text in (observation.instruction, observation.text, *observation.actions)
    ]
    settings = TinySettings(
        text_input=request.param, hidden_size=32, num_layers=2, num_heads=2, short_convolution=4, rope_theta=50.0
    )
    with seeded(0, "weights/language_model"):
        return load_language_model(settings, corpus=corpus, goal_words=words_of([m.instruction for m in observations]))


def test_a_question_has_one_answer_and_it_is_what_is_seen(lm, observations):
    asked, answers = ask_for_parts(lm, observations, 100, 0)
    assert len(asked) == len(answers) == 100
    of_observation = {observation.text: observation for observation in observations}
    for observation, answer in zip(asked, answers, strict=True):
        parts = observation.text.split(", ")
        assert [part for part in parts if part.startswith(observation.instruction)] == [
            f"{observation.instruction} {answer}"
        ]
        assert replace(observation, instruction="") == replace(
            of_observation[observation.text], instruction="", past=observation.past
        )
    assert len(set(answers)) > 2


def test_questions_depend_on_the_seed_alone(lm, observations):
    assert ask_for_parts(lm, observations, 20, 3) == ask_for_parts(lm, observations, 20, 3)
    assert ask_for_parts(lm, observations, 20, 3) != ask_for_parts(lm, observations, 20, 4)


def test_a_goal_is_answered_with_where_the_thing_is_that_it_names(observations):
    asked, answers = ask_for_goals(observations, len(observations), 0)
    assert 10 < len(asked) < len(observations)  # not always in sight
    for observation, answer in zip(asked, answers, strict=True):
        assert observation in observations
        thing = re.search(r"\w+ (ball|box|key)", observation.instruction)
        assert f"You see a {thing.group()} {answer}" in observation.text.split(", ")


SEEN = "You see a wall 1 step left, You see a blue key 2 steps right, You see a red ball 3 steps forward"


@pytest.mark.parametrize(
    ("goal", "answer"),
    [
        ("put the red ball next to the blue key", "3 steps forward, 2 steps right"),
        ("Put the blue key next to the red ball!", "2 steps right, 3 steps forward"),
        ("go to the blue key", "2 steps right"),
        ("go to the blue ball", None),
        ("go to the reddish ball", None),
        ("see a key", None),
    ],
)
def test_a_goal_names_parts_in_its_own_order(goal, answer):
    others = [
        AgentObservation("pick up the red key", "nothing"),
        AgentObservation("go to a blue ball", "You see a wall 1 step right"),
    ]
    asked, answers = ask_for_goals([*others, AgentObservation(goal, SEEN)], 50, 0)
    assert ([observation.instruction for observation in asked], answers) == (([goal], [answer]) if answer else ([], []))


def test_the_last_third_of_recall_asks_for_what_goals_name(lm, episodes, observations):
    task, settings = make_env().task, WarmStartSettings(num_associative_recall_steps=6, num_steps=9, batch_size=8)
    data = WarmStartData(lm, PROMPTS, task, episodes, settings, 0)
    goals = {observation.instruction for observation in observations}
    for step in range(6):
        batch = data.batch(step)
        prompts = [lm.tokenizer.decode(row[mask]) for row, mask in zip(batch["token_ids"], batch["mask"], strict=True)]
        assert all(any(f"{goal}\n" in prompt for goal in goals) for prompt in prompts) == (step >= 4)


def test_where_goals_name_nothing_parts_are_asked_for_until_the_end(lm, episodes):
    mute = [replace(episode, instruction="wait") for episode in episodes]
    settings = WarmStartSettings(num_associative_recall_steps=6, num_steps=9, batch_size=8)
    data = WarmStartData(lm, PROMPTS, make_env().task, mute, settings, 0)
    asks = [any("wait" in lm.tokenizer.decode(row) for row in data.batch(step)["token_ids"]) for step in range(7)]
    assert asks == [False] * 6 + [True]


@pytest.mark.parametrize("observation", ["", "nothing", "a wall ahead", "here, here", "a,b;c"])
def test_nothing_is_asked_where_nothing_can_be_told_apart(observation):
    with pytest.raises(UserError, match="num_associative_recall_steps"):
        ask_for_parts(make_lm(), [AgentObservation("go", observation)] * 3, 5, 0)


def test_some_steps_are_left_for_the_experts_actions():
    with pytest.raises(ValueError, match="num_associative_recall_steps"):
        WarmStartSettings(num_demonstrations=1, num_associative_recall_steps=5, num_steps=5)


def test_recall_comes_first_and_the_expert_after_it(lm, episodes):
    settings = WarmStartSettings(num_associative_recall_steps=2, batch_size=8)
    task, words = make_env().task, lm.tokenizer.decode
    data = WarmStartData(lm, PROMPTS, task, episodes, settings, 0)
    actions = {text for episode in episodes for text in task.action_texts(episode.states[0]) or ()}
    for step in range(4):
        batch = data.batch(step)
        said = {
            words(row[chosen][:-1]).strip() for row, chosen in zip(batch["token_ids"], batch["chosen"], strict=True)
        }
        assert (said <= actions) == (step >= 2), said


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_a_share_of_the_later_steps_goes_on_to_ask(lm, episodes, share):
    settings = WarmStartSettings(
        num_associative_recall_steps=2, num_steps=200, batch_size=4, associative_recall_fraction=share
    )
    task = make_env().task
    data = WarmStartData(lm, PROMPTS, task, episodes, settings, 0)
    actions = {text for episode in episodes for text in task.action_texts(episode.states[0]) or ()}
    asks = []
    for step in range(2, 200):
        batch = data.batch(step)
        said = {
            lm.tokenizer.decode(row[chosen][:-1]).strip()
            for row, chosen in zip(batch["token_ids"], batch["chosen"], strict=True)
        }
        assert said <= actions or not said & actions
        asks.append(not said & actions)
    assert np.mean(asks) == pytest.approx(share, abs=0.1)


def test_who_was_not_taught_to_recall_is_not_asked():
    with pytest.raises(ValueError, match="num_associative_recall_steps"):
        WarmStartSettings(associative_recall_fraction=0.1)


@pytest.mark.parametrize("goal_line", ["{goal}", "do: {goal}, now"])
def test_every_other_question_is_answered_where_it_stands(lm, episodes, goal_line):
    prompts = PROMPTS.model_copy(update={"goal_line": goal_line, "ending": "what next?"})
    settings = WarmStartSettings(num_associative_recall_steps=2, batch_size=8)
    data = WarmStartData(lm, prompts, make_env().task, episodes, settings, 0)
    for step, batch in enumerate((data.batch(0), data.batch(1))):
        for row, chosen in zip(batch["token_ids"], batch["chosen"], strict=True):
            asked = lm.tokenizer.decode(row[: chosen.nonzero()[0]])
            observation, _, goal = asked.strip("\n ").removesuffix("what next?").strip("\n ").rpartition("\n")
            answer = lm.tokenizer.decode(row[chosen][:-1])
            before, after = goal_line.split("{goal}")
            assert goal.strip().startswith(before.strip())
            question = goal.strip().removeprefix(before.strip()).removesuffix(after if step else "").strip()
            assert f"{question}{answer}" in observation
            assert (" what next?" in asked) == (step == 1)


def test_where_the_goal_stands_first_all_questions_are_answered_at_the_end(lm, episodes):
    prompts = PROMPTS.model_copy(update={"goal_place": "first"})
    data = WarmStartData(
        lm, prompts, make_env().task, episodes, WarmStartSettings(num_associative_recall_steps=2, batch_size=4), 0
    )
    end = lm.tokenizer(prompts.ending, add_special_tokens=False)["input_ids"]
    for step in range(2):
        batch = data.batch(step)
        for row, chosen in zip(batch["token_ids"], batch["chosen"], strict=True):
            assert row[: chosen.nonzero()[0]].tolist()[-len(end) :] == end


def test_a_narrow_model_learns_to_recall(tmp_path):
    """Four things are seen on average: by chance it would name the place of another three times in four."""
    task = make_env().task
    played = list(rollout(RandomAgent(), make_env, draw_specs(task, "train", 150, 0)))
    seen = [observation for episode in played for observation in observations_of(task, episode)[:-1]]
    corpus = [
        text for observation in seen for text in (observation.instruction, observation.text, *observation.actions)
    ]
    sizes = {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "initializer_range": 0.125, "rope_theta": 50.0}
    settings = TinySettings(text_input="phrases", short_convolution=4, **sizes)
    with seeded(0, "weights/language_model"):
        lm = load_language_model(
            settings, corpus=corpus, goal_words=words_of([observation.instruction for observation in seen])
        )
    asked, answers = ask_for_parts(lm, seen, len(seen), 0)
    prompt_renderer, held_out = PromptRenderer(lm, PROMPTS), len(asked) // 10
    learnt, other = (
        SFTDataset(lm, prompt_renderer, asked[part], answers[part], 64, 0, "sft/part_questions")
        for part in (np.s_[held_out:], np.s_[:held_out])
    )
    optimizer = OptimizerSettings(num_steps=450, learning_rate=3e-3)
    fit(BehaviourCloningLoss(lm, 0.0), optimizer, learnt.batch, Run.create(tmp_path / "run", "toy", {}), "recall")
    batch = other.batch(0)
    with torch.no_grad():
        hidden = lm.hidden_states(lm.embed_ids(batch["token_ids"]), batch["mask"])
        right = lm.logits(hidden[:, :-1]).argmax(-1) == batch["token_ids"][:, 1:]
    first = batch["chosen"][:, 1:] & ~batch["chosen"][:, :-1]
    assert right[first].float().mean() > 0.75


def test_noise_is_in_the_goals_of_a_share_and_nothing_else(observations):
    def noisy_with(seed: int, fraction: float = 0.3) -> list[AgentObservation]:
        return with_noise(observations, fraction, stream(seed, "warm_start/goal_noise"))

    noisy = noisy_with(0)
    assert noisy == noisy_with(0) != noisy_with(1)
    assert [replace(observation, instruction="") for observation in noisy] == [
        replace(observation, instruction="") for observation in observations
    ]
    changed = [
        (one.instruction, other.instruction)
        for one, other in zip(noisy, observations, strict=True)
        if one.instruction != other.instruction
    ]
    assert 0.2 < len(changed) / len(observations) < 0.4
    assert noisy_with(0, 0.0) == observations
    kept = [len(set(new.split()) & set(old.split())) / len(set(old.split())) for new, old in changed]
    assert 0.6 < np.mean(kept) < 1  # most of what a goal says still stands in it


def test_noise_is_in_what_is_cloned_and_not_in_questions(lm, episodes):
    task = make_env().task
    clean, noisy = (
        WarmStartData(
            lm,
            PROMPTS,
            task,
            episodes,
            WarmStartSettings(num_associative_recall_steps=1, batch_size=8, goal_noise=share),
            0,
        )
        for share in (0.0, 1.0)
    )
    assert clean.batch(0)["token_ids"].tolist() == noisy.batch(0)["token_ids"].tolist()
    assert clean.batch(1)["token_ids"].tolist() != noisy.batch(1)["token_ids"].tolist()
