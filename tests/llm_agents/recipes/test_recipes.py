"""Recipes for agents that are trained on reward: what they play, what they learn from, and how they go on."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.extras import NEEDS_MINIGRID
from helpers.llm_worlds import make_lm
from helpers.recipe_runs import CONFIGS, DAGGER_RUN, MODEL, ONLINE, ROUND, make
from safetensors.torch import load_file

from envs.babyai import make_text
from llm_agents.agents.memory import Experience, in_words
from llm_agents.recipes.bc import BehaviourCloningConfig
from llm_agents.recipes.grpo import GRPOConfig, GRPOLearner
from llm_agents.recipes.llm_agent import WarmStart, WarmStartStages
from llm_agents.recipes.ppo import PPOConfig, PPOLearner, PPORecipe
from llm_agents.rollouts.panels import phrasing_columns
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import range_of
from llm_agents.training import loop as training
from llm_agents.training import online
from llm_agents.training.online import OnlineSettings, draw_rollouts, play


@pytest.mark.parametrize(
    ("name", "stage", "changes"),
    [
        *((name, name, {}) for name in ONLINE),
        ("ppo", "ppo", {"memory": {"min_similarity": 0.0}}),
        ("symbolic_ppo", "symbolic_ppo", {"ppo": CONFIGS["symbolic_ppo"]["ppo"] | {"network": "cnn"}}),
        ("bc", "dagger", {}),
    ],
)
def test_a_stopped_training_goes_on_as_if_it_had_not_been(name, stage, changes, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    recipe, config, whole = make(name, tmp_path / "whole", **changes)
    recipe.run(config, whole)
    _, _, cut = make(name, tmp_path / "cut", **changes)
    monkeypatch.setattr(online, "SAVE_SECONDS", 0.0)
    log = Run.log

    def stop(self, running, step, metrics):
        log(self, running, step, metrics)
        if running == stage and step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            recipe.run(config, cut)
    recipe.run(config, Run.open(tmp_path / "cut"))
    expected, found = (
        load_file(tmp_path / where / "checkpoints" / f"{stage}.safetensors") for where in ("whole", "cut")
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert _logged(whole, stage) == _logged(cut, stage)


def test_reward_comes_after_corrections(tmp_path):
    recipe, config, run = make("ppo", tmp_path / "run", dagger=DAGGER_RUN)
    recipe.run(config, run)
    names = recipe.agents(run)
    assert [name for name in names if "greedy" not in name] == ["random", "expert", "sft", "dagger", "ppo"]
    shared = WarmStartStages(config, run)
    models = [shared.load_warm_started_model(last).state_dict() for last in (None, "dagger", "sft")]
    equal = [all(torch.equal(models[0][key], other[key]) for key in other) for other in models]
    assert equal == [True, True, False]
    assert not {e.seed for e in run.episodes("dagger")} & {e.seed for e in run.episodes("demonstrations")}


def test_a_model_that_is_not_there_is_missed_before_anything_is_collected(tmp_path):
    recipe, config, run = make("ppo", tmp_path / "run", language_model={"name": "nobody/no-model"})
    with pytest.raises(UserError, match="cannot be loaded"):
        recipe.run(config, run)
    assert not run.episodes("demonstrations").files


@pytest.mark.parametrize("text_input", ["words", "phrases"])
def test_what_stands_in_every_prompt_is_written_in_words(text_input, tmp_path):
    """And not letter by letter, though the environment never says it."""
    prompts = {"preamble": "Find what you are asked for."}
    model = MODEL | {"text_input": text_input, "vocab_size": 1000}
    _, config, run = make("ppo", tmp_path / "run", language_model=model, prompts=prompts)
    tokenizer = WarmStartStages(config, run).new_model().tokenizer
    assert len(config.prompts.frame) == 6
    for line in config.prompts.frame:
        words = re.findall(r"\w+|[^\w\s]", line)
        assert len(tokenizer(line, add_special_tokens=False)["input_ids"]) <= len(words)


@pytest.mark.parametrize("text_input", ["words", "phrases"])
def test_what_is_remembered_is_written_in_few_tokens(text_input, tmp_path):
    """Beside a vocabulary that never saw a memory, from goals and actions that both know."""
    counts = []
    for name, changes in {"without": {}, "with": {"memory": {}}}.items():
        model = MODEL | {"text_input": text_input, "vocab_size": 1000}
        _, config, run = make("ppo", tmp_path / name, language_model=model, **changes)
        shared = WarmStartStages(config, run)
        words = in_words(Experience("go to the red ball", ("go forward", "turn left"), success=True))
        line = config.prompts.memory_line.format(memory=words)
        counts.append(len(shared.new_model().tokenizer(line)["input_ids"]))
    assert counts[1] < 0.7 * counts[0]


def test_corrections_follow_a_warm_start(tmp_path):
    with pytest.raises(UserError, match="corrections follow a warm start"):
        make("ppo", tmp_path / "run", dagger=DAGGER_RUN, warm_start={})


def _logged(run: Run, stage: str) -> list[dict]:
    """What was logged, but for what depends on the machine."""
    lines = [line for line in run.metrics() if line["stage"] == stage]
    of_machine = ("speed/", "memory/")
    return [{key: repr(value) for key, value in line.items() if not key.startswith(of_machine)} for line in lines]


def test_training_changes_the_agent_and_only_what_may_change(tmp_path):
    recipe, config, run = make("ppo", tmp_path / "run", ppo={**ROUND, "value_warmup": 3})
    recipe.train(config, run)
    start, trained = (load_file(run.folder / "checkpoints" / f"{name}.safetensors") for name in ("sft", "ppo"))
    of_model = {key for key in trained if key.startswith("weights.lm.")}
    assert all(torch.equal(trained[key], start[key]) for key in of_model)  # the value head alone learns at first
    assert any(trained[key].abs().sum() > 0 for key in trained if key.startswith("weights.value_head"))


def test_without_its_gradient_the_value_loss_trains_the_head_alone(tmp_path):
    trained = {}
    for name, changes in {
        "detached": {"value_gradient": False},
        "no value": {"value_weight": 0.0},
        "slow head": {"value_gradient": False, "value_learning_rate_scale": 1e-9},
        "shared": {},
    }.items():
        settings = {**ROUND, "num_iterations": 1, "value_warmup": 0, "max_grad_norm": 1e9, **changes}
        recipe, config, run = make("ppo", tmp_path / name, ppo=settings)
        recipe.train(config, run)
        head = recipe.new_scorer(WarmStartStages(config, run)).value_head.state_dict()
        trained[name] = load_file(run.folder / "checkpoints" / "ppo.safetensors")
        moved = [(trained[name][f"weights.value_head.{key}"] - head[key]).abs().max().item() for key in head]
        assert (max(moved) > 1e-5) == (name in ("detached", "shared"))
    of_model = [key for key in trained["shared"] if key.startswith("weights.lm.")]
    same = {
        name: all(torch.allclose(trained[name][key], trained["detached"][key], atol=1e-6) for key in of_model)
        for name in trained
    }
    assert same == {"detached": True, "no value": True, "slow head": True, "shared": False}


def test_a_model_with_lora_trains_its_adapters_and_the_value_head_alone(tmp_path):
    lm = make_lm("qwen2", max_length=512, corpus=["go to the red ball", "You see a wall 1 step forward"])
    lm.model.save_pretrained(tmp_path / "model")
    lm.tokenizer.save_pretrained(tmp_path / "model")
    model = {"name": str(tmp_path / "model"), "lora": {"rank": 2}}
    changes = {"language_model": model, "warm_start": {"num_demonstrations": 0}}
    recipe, config, run = make(
        "ppo", tmp_path / "run", **changes, ppo={**ROUND, "num_iterations": 2, "value_warmup": 0}
    )
    recipe.run(config, run)
    saved = load_file(run.folder / "checkpoints" / "ppo.safetensors")
    weights = {key for key in saved if key.startswith("weights.")}
    assert weights
    assert all("lora_" in key or "value_head" in key for key in weights)
    assert any(saved[key].abs().sum() > 0 for key in weights if "lora_B" in key)  # zero before training
    recipe.run(config, Run.open(run.folder))
    assert {path.name for path in (run.folder / "evaluation").rglob("ppo*")} == {"ppo.jsonl", "ppo (greedy).jsonl"}


@NEEDS_MINIGRID
def test_what_is_played_depends_on_seed_and_iteration_alone_and_stays_clear_of_panels():
    task = make_text("mixed").task
    settings = OnlineSettings(num_groups=20, group_size=4)
    one, again, later, other = (
        draw_rollouts(task, settings, seed, number) for seed, number in ((0, 3), (0, 3), (0, 4), (1, 3))
    )
    assert one.specs == again.specs
    assert one.specs != later.specs
    assert one.specs != other.specs
    assert all(range_of(spec.seed) == "online" and spec.split == "train" for spec in one.specs)
    train = {goal.id for goal in task.goals("train")}
    assert {spec.goal_id for spec in one.specs} <= train


@NEEDS_MINIGRID
def test_members_of_a_group_share_goal_and_start_but_not_their_randomness():
    task = make_text("mixed").task
    rollouts = draw_rollouts(task, OnlineSettings(num_groups=5, group_size=3), 0, 2)
    for number in range(5):
        members = [i for i, group in enumerate(rollouts.groups.tolist()) if group == number]
        assert len({rollouts.specs[i] for i in members}) == 1
        assert len({rollouts.streams[i] for i in members}) == len(members) == 3
    assert Counter(rollouts.groups.tolist()) == dict.fromkeys(range(5), 3)


@pytest.mark.parametrize("context", ["rewrite", "append"])
@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo", "rloo"])
def test_before_the_first_update_what_is_trained_is_what_acted(variant, context, tmp_path):
    _, config, run = make("grpo", tmp_path / "run", text_agent={"max_new_tokens": 4, "context": context})
    config = GRPOConfig.model_validate(config.model_dump() | {"grpo": {**ROUND, "group_size": 3, "variant": variant}})
    shared = WarmStartStages(config, run)
    WarmStart(shared).run()
    learner = GRPOLearner(shared.load_warm_started_model().eval(), config)
    rollouts = draw_rollouts(shared.task, config.grpo, 0, 0)
    episodes = play(learner.agent, shared.make_env, rollouts, 8)
    rewards = np.linspace(0, 1, len(episodes))  # so that every group has something to learn
    learner._rewards = lambda episode: torch.tensor([float(rewards[episodes.index(episode)])] * len(episode))
    batch, _ = learner.make_batch(episodes, rollouts.groups, 0)
    _, metrics = learner.loss(batch, learner.weights(batch))
    assert metrics["policy/train_rollout_log_prob_diff"] < 1e-4
    assert metrics["policy/ratio_max"] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("variant", ["grpo", "dr_grpo", "dapo", "gspo", "rloo"])
def test_parts_of_a_batch_add_up_to_its_loss(variant, tmp_path):
    _, config, run = make("grpo", tmp_path / "run", warm_start={"num_demonstrations": 0})
    config = GRPOConfig.model_validate(config.model_dump() | {"grpo": {**ROUND, "group_size": 3, "variant": variant}})
    shared = WarmStartStages(config, run)
    learner = GRPOLearner(shared.load_warm_started_model().eval(), config)
    rollouts = draw_rollouts(shared.task, config.grpo, 0, 0)
    episodes = play(learner.agent, shared.make_env, rollouts, 8)
    learner._rewards = lambda episode: torch.tensor([float(episode.seed % 7 + len(episode))] * len(episode))
    batch, _ = learner.make_batch(episodes, rollouts.groups, 0)
    batch = batch.take(torch.arange(min(40, len(batch))))
    weights = learner.weights(batch)
    whole = learner.loss(batch, weights)[0].item()
    parts = sum(learner.loss(batch.take(i), weights[i])[0].item() for i in torch.arange(len(batch)).chunk(3))
    assert parts == pytest.approx(whole, rel=1e-4, abs=1e-6)


def test_of_two_successes_the_earlier_is_better_and_long_failures_do_not_outweigh_their_group(tmp_path):
    _, config, run = make("grpo", tmp_path / "run", warm_start={"num_demonstrations": 0})
    shared = WarmStartStages(config, run)
    learner = GRPOLearner(shared.load_warm_started_model().eval(), config)
    rollouts = draw_rollouts(shared.task, config.grpo, 0, 0)
    episodes = play(learner.agent, shared.make_env, rollouts, 8)
    learner._rewards = lambda episode: torch.eye(len(episode))[-1]  # all reach their goals, at their last steps
    credit, _ = learner._credit(episodes, rollouts.groups, [], torch.arange(len(episodes)))
    lengths = torch.tensor([len(episode) for episode in episodes])
    by_length = {int(group): lengths[rollouts.groups == group] for group in rollouts.groups.unique()}
    assert any(len(found.unique()) > 1 for found in by_length.values())
    for group, found in by_length.items():
        advantages = credit.advantages[rollouts.groups == group]
        assert torch.equal(advantages.argsort(stable=True), (-found).argsort(stable=True))
    batch, _ = learner.make_batch(episodes, rollouts.groups, 0)
    assert abs(batch.advantages.sum()) < 1e-3, "with a mean over episodes, not steps, it would be far from zero"


@pytest.mark.parametrize(("variant", "factor"), [("grpo", 1), ("dapo", 1), ("dr_grpo", 1000)])
def test_step_advantages_are_scaled_as_the_variant_scales_its_others(variant, factor, tmp_path):
    _, config, run = make("grpo", tmp_path / "run", warm_start={"num_demonstrations": 0})
    changes = {"grpo": {**ROUND, "group_size": 3, "variant": variant, "step_weight": 1}}
    config = GRPOConfig.model_validate(config.model_dump() | changes)
    shared = WarmStartStages(config, run)
    learner = GRPOLearner(shared.load_warm_started_model().eval(), config)
    rollouts = draw_rollouts(shared.task, config.grpo, 0, 0)
    episodes = play(learner.agent, shared.make_env, rollouts, 8)
    found = []
    for scale in (1e3, 1e6):  # far above the epsilon beside a deviation
        learner._rewards = lambda episode, scale=scale: scale * torch.eye(len(episode))[-1] * (1 + episode.seed % 7)
        found.append(learner.make_batch(episodes, rollouts.groups, 0)[0].advantages)
    assert found[0].abs().max() > 0
    torch.testing.assert_close(found[1], factor * found[0], rtol=1e-3, atol=1e-3 * factor)


def test_the_value_is_taught_as_much_by_small_returns_as_by_large_ones(tmp_path):
    _, config, run = make("ppo", tmp_path / "run", warm_start={"num_demonstrations": 0})
    shared = WarmStartStages(config, run)
    scorer = PPORecipe().new_scorer(shared)
    learner = PPOLearner(scorer, config)
    episodes = play(learner.agent, shared.make_env, draw_rollouts(shared.task, config.ppo, 0, 0), 8)
    rewarded = [replace(episode, rewards=np.linspace(0, 1, len(episode), dtype=np.float32)) for episode in episodes]

    def value_loss(scale: float) -> float:
        scaled = [replace(episode, rewards=scale * episode.rewards, last_value=0.0) for episode in rewarded]
        batch, _ = learner.make_batch(scaled, torch.arange(len(scaled)), 0)  # of which the head expects nothing
        return learner.loss(batch, learner.weights(batch))[0].item()

    small, large = value_loss(0.1), value_loss(1.0)
    assert small == pytest.approx(large, rel=1e-3)
    assert large > 0


def test_an_episode_that_was_cut_counts_on_what_would_have_followed(tmp_path):
    """With values of one everywhere and no reward, a truncated episode loses nothing, a terminated one all."""
    _, config, run = make("ppo", tmp_path / "run", warm_start={"num_demonstrations": 0})
    config = PPOConfig.model_validate(config.model_dump() | {"ppo": {**ROUND, "discount": 1.0, "gae_lambda": 1.0}})
    shared = WarmStartStages(config, run)
    scorer = PPORecipe().new_scorer(shared).eval()
    torch.nn.init.ones_(scorer.value_head[-1].bias)
    learner = PPOLearner(scorer, config)
    many = config.ppo.model_copy(update={"num_groups": 32})
    episodes = play(learner.agent, shared.make_env, draw_rollouts(shared.task, many, 0, 0), 8)
    assert {episode.truncated for episode in episodes} == {True, False}
    batch, _ = learner.make_batch(episodes, torch.arange(len(episodes)), 0)
    first = np.cumsum([0, *map(len, episodes)])[:-1]
    expected = [1.0 if episode.truncated else float(episode.rewards.sum()) for episode in episodes]
    assert batch.returns[first].tolist() == pytest.approx(expected, abs=1e-5)


def test_reinforce_is_reached_by_a_config_and_its_gradient_is_that_of_ppo_before_any_update(tmp_path):
    gradients = []
    for kind in ("clipped", "reinforce"):
        round_ = {**ROUND, "value_warmup": 0, "policy_loss": {"kind": kind}}
        _, config, run = make("ppo", tmp_path / kind, warm_start={"num_demonstrations": 0}, ppo=round_)
        stages = WarmStartStages(config, run)
        learner = PPOLearner(PPORecipe().new_scorer(stages), config)
        rollouts = draw_rollouts(stages.task, config.ppo, 0, 0)
        batch, _ = learner.make_batch(play(learner.agent, stages.make_env, rollouts, 8), rollouts.groups, 0)
        learner.loss(batch, learner.weights(batch))[0].backward()
        gradients.append([p.grad.clone() for p in learner.module.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


@NEEDS_MINIGRID
def test_every_kind_of_phrasing_has_its_column():
    columns = phrasing_columns(make_text("mixed").task)
    names = [column.name for column in columns]
    assert names[0] == "train"
    assert names[-2:] == ["easy", "hard"]
    assert {"rephrase: nouns", "rephrase: colours", "rephrase: dialogue"} <= set(names)


def test_contradictory_settings_are_refused(tmp_path):
    with pytest.raises(UserError, match="rewrite"):
        make(
            "grpo", tmp_path / "a", text_agent={"context": "append"}, grpo={**ROUND, "group_size": 2, "step_weight": 1}
        )
    with pytest.raises(UserError, match="step_weight"):
        make("grpo", tmp_path / "b", grpo={**ROUND, "group_size": 2, "step_weight": 1, "variant": "gspo"})
    with pytest.raises(UserError, match="multiple"):
        make("symbolic_ppo", tmp_path / "c", ppo={"steps_per_round": 100, "num_envs": 3, "rollout_length": 32})
    recipe, config, run = make("ppo", tmp_path / "d", scorer={"value_head": False})
    with pytest.raises(UserError, match="value head"):
        recipe.run(config, run)


def test_cloning_needs_demonstrations():
    with pytest.raises(UserError, match="num_demonstrations"):
        parse_config(BehaviourCloningConfig, {"warm_start": {"num_demonstrations": 0}}, "here")
