"""Agents that write: what is understood, what is stored, and what happens to what cannot be understood."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers.llm_worlds import ACTIONS, CASES, MODELS, CorridorTask, WordlessTask, make_env, make_lm, start
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.episodes import Episode, EpisodeStore, Turn
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.agents.text import TextAgent, TextAgentSettings, find_last, parse_action_text
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.sampler import LocalSampler
from llm_agents.rollouts.observation import observations_of
from llm_agents.rollouts.rollout import rollout
from llm_agents.runtime.errors import UserError
from llm_agents.training.sequences import join_turns, sampled_log_probs

TASK = CorridorTask()
NEW_TOKENS = 6


def make_agent(lm: LanguageModel, **settings) -> TextAgent:
    return TextAgent(LocalSampler(lm), TextAgentSettings(max_new_tokens=NEW_TOKENS, **settings), PromptSettings())


def play(lm: LanguageModel, num_envs: int = 5, **settings) -> list[Episode]:
    return rollout(make_agent(lm, **settings), make_env, CASES, num_envs)


def context(turns: tuple[Turn, ...], step: int) -> list[int]:
    """All that the model was given at a step."""
    begin = max(n for n in range(step + 1) if not turns[n].continues)
    before = [token for turn in turns[begin:step] for token in (*turn.prompt_ids, *turn.token_ids)]
    return [*before, *turns[step].prompt_ids]


# What is understood


@pytest.mark.parametrize(
    ("written", "action"),
    [
        ("step right", "step right"),
        ("Action: Step  RIGHT.", "step right"),
        ('I cannot wait. Action: "step left"!', "step left"),
        ("**step_left**", "step left"),
        ("not step left, not wait, but step right then", "step right"),
        ("Action: wait Action: step left", "step left"),
        ("so I jump over to the right", "jump over to the right"),
        ("step right. Action: fly", None),  # what follows the last "Action:" is all that counts
        ("waiting", None),
        ("right", None),
        ("", None),
        ("Action:", None),
        ("reaction: step left", "step left"),
    ],
)
def test_the_last_action_mentioned_is_taken(written, action):
    assert parse_action_text(written, ACTIONS) == action


def test_of_actions_that_end_together_the_longest_is_taken():
    assert find_last("please go up", ["up", "go up", "go"]) == "go up"
    assert find_last("go up, go", ["up", "go up", "go"]) == "go"
    assert find_last("go up", ["...", "go up!"]) == "go up!"


def test_only_admissible_actions_are_understood():
    assert parse_action_text("step left", ("wait", "step right")) is None


def test_without_action_texts_the_task_understands_or_not():
    assert parse_action_text("I think. Action: step left ", ()) == "step left"
    lm = make_lm()
    episodes = rollout(make_agent(lm), partial(make_env, WordlessTask), CASES)
    turns = [turn for episode in episodes for turn in episode.turns]
    assert {turn.invalid for turn in turns} == {True}  # it never writes the whole of an action and nothing more


@settings(deadline=None)
@given(st.text())
def test_nothing_that_is_written_breaks_the_parser(written):
    assert parse_action_text(written, ACTIONS) in (None, *ACTIONS)


# Token in, token out


@pytest.mark.parametrize("context_mode", ["append", "rewrite"])
@pytest.mark.parametrize("name", MODELS)
def test_training_log_probs_are_those_of_sampling(name, context_mode, tmp_path):
    """From stored episodes, before any update: the ratio of policies is one."""
    lm = make_lm(name, max_length=1024)
    store = EpisodeStore(tmp_path)
    store.append(play(lm, context=context_mode, temperature=0.7))
    sequences = [sequence for episode in store.read() for sequence in join_turns(episode.turns)]
    log_probs = sampled_log_probs(lm, sequences, temperature=0.7)
    for row, sequence in zip(log_probs, sequences, strict=True):
        size = len(sequence.token_ids)
        torch.testing.assert_close(row[:size], torch.from_numpy(sequence.log_probs), rtol=1e-4, atol=1e-4)
        assert (row[size:] == 0).all()
        assert sequence.loss_mask.sum() > 0
    log_probs.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in lm.parameters() if p.grad is not None)


def test_an_append_only_history_is_one_sequence_and_never_rendered_again():
    lm = make_lm(max_length=4096)
    prompt_renderer = PromptRenderer(lm, PromptSettings())
    for episode in play(lm, context="append"):
        assert len(join_turns(episode.turns)) == 1
        assert [turn.continues for turn in episode.turns] == [False] + [True] * (len(episode) - 1)
        observations = observations_of(TASK, episode)
        expected = prompt_renderer.opening(observations[0])
        for step, turn in enumerate(episode.turns):
            expected += prompt_renderer.next(observations[step], observations[max(0, step - 1)].actions)
            assert context(episode.turns, step) == expected
            expected += turn.token_ids
        (sequence,) = join_turns(episode.turns)
        assert sequence.token_ids.tolist() == expected
        for step, turn in enumerate(episode.turns):
            chosen = sequence.loss_mask & (sequence.steps == step)
            assert sequence.token_ids[chosen].tolist() == list(turn.token_ids)
            assert sequence.log_probs[chosen].tolist() == pytest.approx(list(turn.log_probs))


def test_a_rewritten_prompt_begins_a_new_sequence_each_step():
    lm = make_lm()
    prompt_renderer = PromptRenderer(lm, PromptSettings())
    for episode in play(lm, context="rewrite"):
        assert len(join_turns(episode.turns)) == len(episode)
        observations = observations_of(TASK, episode)[:-1]
        assert [turn.prompt_ids for turn in episode.turns] == prompt_renderer.prompts(observations, NEW_TOKENS)


def test_a_history_that_outgrows_the_window_begins_anew_with_its_latest_turns():
    lm, prompts = make_lm(max_length=220), PromptSettings(list_actions=False)
    agent = TextAgent(LocalSampler(lm), TextAgentSettings(max_new_tokens=NEW_TOKENS, context="append"), prompts)
    prompt_renderer = PromptRenderer(lm, prompts)
    episodes = list(rollout(agent, make_env, CASES))
    num_kept = []
    for episode in episodes:
        observations = observations_of(TASK, episode)
        for step, turn in enumerate(episode.turns):
            given = context(episode.turns, step)
            assert len(given) + NEW_TOKENS <= lm.context_length
            if step and not turn.continues:
                opening = prompt_renderer.opening(observations[step])
                assert given[: len(opening)] == opening
                before = context(episode.turns, step - 1) + list(episode.turns[step - 1].token_ids)
                now = prompt_renderer.next(observations[step], observations[step - 1].actions)
                assert len(before) + len(now) + NEW_TOKENS > lm.context_length
                kept = given[len(opening) : len(given) - len(now)]
                assert len(given) <= (lm.context_length - NEW_TOKENS) // 2
                assert before[len(before) - len(kept) :] == kept  # as they were
                num_kept.append(len(kept))
    assert sum(map(bool, num_kept)) > 3
    assert any(len(set(sequence.steps)) > 1 for episode in episodes for sequence in join_turns(episode.turns))


def test_what_an_episode_is_does_not_depend_on_the_others():
    lm = make_lm()
    alone, together = play(lm, num_envs=1), play(lm, num_envs=12)
    for one, other in zip(alone, together, strict=True):
        assert one.actions.tolist() == other.actions.tolist()
        assert [turn.token_ids for turn in one.turns] == [turn.token_ids for turn in other.turns]


# What names no action


def test_what_names_no_action_is_marked_and_told():
    lm = make_lm()
    episodes = play(lm)
    turns = [turn for episode in episodes for turn in episode.turns]
    assert sum(turn.invalid for turn in turns) > 0
    for episode in episodes:
        observations = observations_of(TASK, episode)
        for turn, observation, after, action in zip(
            episode.turns, observations, observations[1:], episode.actions, strict=False
        ):
            written = lm.tokenizer.decode(turn.token_ids, skip_special_tokens=True)
            named = parse_action_text(written, observation.actions)
            assert turn.invalid == (named is None)
            assert turn.invalid or TASK.parse_action(named) == action
            assert after.invalid == turn.invalid
            assert (
                f"{PromptSettings().invalid_line}\n" in PromptRenderer(lm, PromptSettings()).lines(after)
            ) == turn.invalid


def test_a_random_action_or_a_given_one_takes_its_place():
    lm = make_lm()
    drawn, given = [], []
    for actions, name in ((drawn, "random"), (given, "step right")):
        for episode in play(lm, invalid_action=name):
            actions += [action for action, turn in zip(episode.actions, episode.turns, strict=True) if turn.invalid]
    assert len(set(drawn)) == len(ACTIONS)
    assert set(given) == {TASK.parse_action("step right")}


def test_it_may_end_the_episode():
    episodes = play(make_lm(), end_when_invalid=True)
    ended = [episode for episode in episodes if episode.turns[-1].invalid]
    assert ended
    for episode in episodes:
        assert not any(turn.invalid for turn in episode.turns[:-1])
        assert episode.terminated or episode.truncated
    assert all(episode.terminated for episode in ended)
    assert any(not episode.success for episode in ended)


def test_an_invalid_action_that_is_none_is_refused():
    with pytest.raises(UserError, match=r"invalid_action is 'fly', which is not admissible: (wait|step right)"):
        play(make_lm(), invalid_action="fly")


@pytest.mark.parametrize("context_mode", ["append", "rewrite"])
def test_a_prompt_that_cannot_fit_is_refused(context_mode):
    with pytest.raises(UserError, match="window of 30"):
        make_agent(make_lm(max_length=30), context=context_mode).act([start(CASES[0]).observe()])


def test_greedy_agents_draw_nothing_that_matters():
    lm = make_lm()
    observations = [start(spec).observe() for spec in CASES]
    first = [decision.turn for decision in make_agent(lm, temperature=0).act(observations)]
    again = [decision.turn for decision in make_agent(lm, temperature=0).act(observations)]
    assert first == again
    assert np.isfinite([log_prob for turn in first for log_prob in turn.log_probs]).all()
