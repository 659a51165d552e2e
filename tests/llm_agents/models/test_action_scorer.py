"""Action texts as a policy: against one forward an action, against uniform models, and against bad input."""

import math

import numpy as np
import pytest
import torch
from helpers.extras import NEEDS_ENCODER
from helpers.llm_worlds import ACTIONS, CASES, MODELS, WordlessTask, logits_alone, make_env, make_lm, start

from envs.episodes import EpisodeStore
from llm_agents.agents.prompts import PromptSettings
from llm_agents.agents.scoring import ScoringAgent
from llm_agents.losses.policy.ppo import entropy
from llm_agents.models.action_scorer import ActionScorer, ScorerSettings, action_ids, packed_mask
from llm_agents.models.language_model import LanguageModel
from llm_agents.models.loading import load_language_model
from llm_agents.rollouts.observation import observations_of
from llm_agents.rollouts.rollout import rollout
from llm_agents.runtime.errors import UserError

PROMPTS = ["go to place 1", "You are at place 3 \n go to place 2 \n Action:", "a"]
ACTION_SETS = [ACTIONS, ("wait", "step right"), ("left", "jump", "wait", "step left, then jump over to the right")]
METHODS = ("packed", "cached")


def make_scorer(lm: LanguageModel, **settings) -> ActionScorer:
    torch.manual_seed(1)
    scorer = ActionScorer(lm, ScorerSettings(**settings)).eval()
    if scorer.value_head is not None:  # as if trained
        torch.nn.init.normal_(scorer.value_head[-1].weight)
    return scorer


def ids(lm: LanguageModel, texts: list[str]) -> list[list[int]]:
    return lm.tokenizer(texts, add_special_tokens=False)["input_ids"]


def score_one_by_one(lm: LanguageModel, prompt: list[int], action: list[int]) -> torch.Tensor:
    """The log-probability of an action by a forward of its own, without padding, mask or cache."""
    embeds = lm.model.get_input_embeddings()(torch.tensor([prompt + action]))
    logits = logits_alone(lm, embeds)[0, len(prompt) - 1 : -1]
    return logits.log_softmax(-1).gather(1, torch.tensor(action)[:, None]).sum()


@pytest.fixture(scope="module", params=MODELS)
def lm(request) -> LanguageModel:
    return make_lm(request.param)


@torch.inference_mode()
@pytest.mark.parametrize("method", METHODS)
def test_scores_are_those_of_one_forward_an_action(lm, method):
    scorer = make_scorer(lm, normalisation="sum", method=method)
    prompts = ids(lm, PROMPTS)
    scores = scorer(prompts, ACTION_SETS)
    lengths = {len(action_ids(scorer.lm, action)) for actions in ACTION_SETS for action in actions}
    assert len(lengths) > 2
    assert 1 in lengths
    for row, (prompt, actions) in enumerate(zip(prompts, ACTION_SETS, strict=True)):
        for column, action in enumerate(actions):
            expected = score_one_by_one(lm, prompt, action_ids(scorer.lm, action))
            torch.testing.assert_close(scores.logits[row, column], expected, rtol=1e-5, atol=1e-5)
        assert (scores.logits[row, len(actions) :] == -torch.inf).all()


@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_one_forward_an_action(method):
    lm = make_lm("qwen2")
    scorer = make_scorer(lm, normalisation="sum", method=method)
    prompts = ids(lm, PROMPTS)

    def gradients(log_probs) -> list[torch.Tensor]:
        lm.zero_grad()
        torch.stack([row[0] for row in log_probs]).sum().backward()
        return [parameter.grad.clone() for parameter in lm.model.parameters()]

    ours = gradients(scorer(prompts, ACTION_SETS).logits.log_softmax(-1))
    theirs = gradients(
        torch.stack([score_one_by_one(lm, prompt, action_ids(scorer.lm, action)) for action in actions]).log_softmax(-1)
        for prompt, actions in zip(prompts, ACTION_SETS, strict=True)
    )
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("method", METHODS)
def test_values_and_scores_do_not_depend_on_the_company(lm, method):
    scorer = make_scorer(lm, method=method)
    prompts = ids(lm, PROMPTS)
    together = scorer(prompts, ACTION_SETS)
    for row, (prompt, actions) in enumerate(zip(prompts, ACTION_SETS, strict=True)):
        alone = scorer([prompt], [actions])
        torch.testing.assert_close(together.logits[row, : len(actions)], alone.logits[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(together.values[row], alone.values[0], rtol=1e-4, atol=1e-4)
        backwards = scorer([prompt], [actions[::-1]])
        torch.testing.assert_close(backwards.logits[0].flip(0), alone.logits[0], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_a_model_that_knows_nothing_gives_each_token_the_same_probability():
    """GLAM's published scorer sums raw logits and gives padding a logit of one: short actions gain."""
    lm = make_lm()
    lm.model.lm_head.weight.zero_()
    per_token = -math.log(lm.model.config.vocab_size)
    for normalisation in ("sum", "token", "word"):
        scorer = make_scorer(lm, normalisation=normalisation)
        counts = [len(action_ids(scorer.lm, action)) for action in ACTIONS]
        assert len(set(counts)) > 2
        norms = {"sum": [1] * 4, "token": counts, "word": [1, 2, 2, 5]}[normalisation]
        expected = [per_token * count / norm for count, norm in zip(counts, norms, strict=True)]
        assert scorer(ids(lm, PROMPTS[:1]), [ACTIONS]).logits[0].tolist() == pytest.approx(expected)


@torch.inference_mode()
def test_all_continuations_of_a_prompt_together_have_probability_one():
    lm = make_lm()
    scorer = make_scorer(lm, normalisation="sum")
    words = {}
    for token in range(lm.model.config.vocab_size):
        text = lm.tokenizer.decode([token]).strip()
        if text and action_ids(scorer.lm, text) == [token]:
            words[token] = text
    assert len(words) > 20
    scores = scorer(ids(lm, PROMPTS[:1]), [tuple(words.values())]).logits[0]
    full = lm.model(torch.tensor(ids(lm, PROMPTS[:1]))).logits[0, -1].softmax(-1)
    assert scores.exp().sum().item() == pytest.approx(full[list(words)].sum().item(), abs=1e-5)
    assert scores.exp().sum() < 1


def test_actions_of_one_token_take_no_position_behind_the_prompt(monkeypatch):
    lm = make_lm()
    scorer = make_scorer(lm)
    prompts = ids(lm, PROMPTS)
    widths = []
    read = lm.hidden_states

    def watched(embeds, *rest, **more):
        widths.append(embeds.shape[1])
        return read(embeds, *rest, **more)

    monkeypatch.setattr(lm, "hidden_states", watched)
    scorer(prompts, [("wait", "left")] * 3)
    assert widths == [max(map(len, prompts))]


def test_the_mask_lets_a_token_see_the_prompt_and_its_path():
    one = np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1]], bool)  # two continuations of one beginning
    first, second = packed_mask([2, 3], [one, np.ones((1, 1), bool)]).astype(int).tolist()
    assert first == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 0, 1]]
    assert second[:4] == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]]
    assert second[4][4] == 1  # padding


def test_what_actions_have_in_common_is_read_once():
    scorer = make_scorer(make_lm())
    rows = [action_ids(scorer.lm, action) for action in ACTIONS]
    read = scorer.action_set(ACTIONS).read
    assert rows[1][0] == rows[2][0], "no two begin alike: nothing is tested"
    assert len(read) == len({tuple(row[:depth]) for row in rows for depth in range(1, len(row))})
    assert len(read) < sum(len(row) - 1 for row in rows)


def test_the_value_may_learn_without_changing_the_model():
    lm = make_lm()
    scorer = make_scorer(lm)
    for detach in (True, False):
        scorer.zero_grad()
        scorer(ids(lm, PROMPTS), ACTION_SETS, detach_value=detach).values.sum().backward()
        assert all(
            (parameter.grad is None or (parameter.grad == 0).all()) == detach
            for parameter in [lm.model.model.norm.weight]
        )
        assert scorer.value_head[0].weight.grad.abs().sum() > 0


@torch.inference_mode()
def test_untrained_values_are_zero_and_without_a_head_there_are_none():
    lm = make_lm()
    fresh = ActionScorer(lm, ScorerSettings()).eval()
    assert (fresh(ids(lm, PROMPTS), ACTION_SETS).values == 0).all()
    assert make_scorer(lm, value_head=False)(ids(lm, PROMPTS), ACTION_SETS).values is None


def test_the_method_is_chosen_by_how_much_is_to_be_read(monkeypatch):
    lm = make_lm(max_length=4096)
    scorer = make_scorer(lm)
    used = []
    for method in METHODS:
        read = getattr(scorer, f"_read_{method}")
        monkeypatch.setattr(scorer, f"_read_{method}", lambda *a, m=method, r=read: used.append(m) or r(*a))
    prompts = ids(lm, PROMPTS[:1])
    with torch.inference_mode():
        scorer(prompts, [ACTIONS])
        scorer(prompts, [[f"wait {n} " + "left " * 60 for n in range(8)]])
    assert used == ["packed", "cached"]


# What cannot be scored


def test_bad_input_is_named():
    lm = make_lm(max_length=32)
    scorer = make_scorer(lm)
    prompt = ids(lm, PROMPTS[:1])
    for actions, message in (([("wait", " ")], "has no tokens"), ([()], "no admissible action")):
        with pytest.raises(UserError, match=message):
            scorer(prompt, actions)
    with pytest.raises(UserError, match="without tokens"):
        scorer([[]], [ACTIONS])
    with pytest.raises(UserError, match=r"do not fit into the model's window of 32"):
        scorer([prompt[0] * 8], [ACTIONS])


@NEEDS_ENCODER
def test_a_model_that_reads_through_an_encoder_is_refused():
    with pytest.raises(UserError, match="text_input to 'words'"):
        ActionScorer(load_language_model("tiny"), ScorerSettings())


# The agent


@pytest.fixture(scope="module")
def scorer() -> ActionScorer:
    return make_scorer(make_lm())


def test_training_computes_the_probabilities_that_acted(scorer, tmp_path):
    """From stored episodes: prompt, candidates and choice are all that is needed."""
    store = EpisodeStore(tmp_path)
    store.append(rollout(ScoringAgent(scorer, PromptSettings()), make_env, CASES, num_envs=3))
    turns = [turn for episode in store.read() for turn in episode.turns]
    assert len({len(turn.candidates) for turn in turns}) > 1
    scores = scorer([turn.prompt_ids for turn in turns], [turn.candidates for turn in turns])
    log_probs = scores.logits.log_softmax(-1)[torch.arange(len(turns)), torch.tensor([turn.choice for turn in turns])]
    expected = torch.tensor([turn.log_probs[0] for turn in turns])
    torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.values, torch.tensor([turn.value for turn in turns]), rtol=1e-4, atol=1e-4)
    for turn in turns:
        assert turn.token_ids == action_ids(scorer.lm, turn.candidates[turn.choice])
    loss = entropy(scores.logits).sum() - log_probs.sum() + scores.values.sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in scorer.parameters() if p.grad is not None)


def test_prompts_of_a_stored_episode_are_those_that_were_shown(scorer):
    settings = PromptSettings(num_past_actions=3, num_past_observations=2)
    agent = ScoringAgent(scorer, settings)
    for episode in rollout(agent, make_env, CASES):
        observations = observations_of(make_env().task, episode)
        assert len(observations) == len(episode) + 1
        for observation, turn in zip(observations, episode.turns, strict=False):
            assert agent.prompts([observation]) == [turn.prompt_ids]
            assert observation.actions == turn.candidates


def test_what_an_episode_is_does_not_depend_on_the_others(scorer):
    agent = ScoringAgent(scorer, PromptSettings())

    def actions(num_envs: int) -> dict[int, list[int]]:
        return {episode.seed: episode.actions.tolist() for episode in rollout(agent, make_env, CASES, num_envs)}

    assert actions(1) == actions(5) == actions(12)


@torch.inference_mode()
def test_choices_are_as_frequent_as_their_probability(scorer):
    observation = start(CASES[0]).observe()
    for temperature in (0.5, 2.0):
        agent = ScoringAgent(scorer, PromptSettings(), temperature)
        turns = [decision.turn for decision in agent.act([observation] * 1000)]
        scores = scorer([turns[0].prompt_ids], [turns[0].candidates]).logits[0]
        expected = (scores / temperature).softmax(-1)
        shares = np.bincount([turn.choice for turn in turns], minlength=len(expected)) / len(turns)
        assert np.abs(shares - expected.numpy()).max() < 4 * np.sqrt(0.25 / len(turns))
        for turn in turns[:20]:
            assert turn.log_probs[0] == pytest.approx(expected[turn.choice].log().item(), abs=1e-5)


@torch.inference_mode()
def test_at_temperature_zero_the_best_action_is_taken(scorer):
    observations = [start(spec).observe() for spec in CASES]
    before = observations[0].rng.bit_generator.state
    decisions = ScoringAgent(scorer, PromptSettings(), temperature=0).act(observations)
    assert observations[0].rng.bit_generator.state == before
    for decision in decisions:
        scores = scorer([decision.turn.prompt_ids], [decision.turn.candidates]).logits[0]
        assert decision.turn.choice == scores.argmax()


def test_an_environment_without_action_texts_is_refused(scorer):
    agent = ScoringAgent(scorer, PromptSettings(num_past_actions=0))
    with pytest.raises(UserError, match="without action texts"):
        agent.act([start(CASES[0], WordlessTask).observe()])
