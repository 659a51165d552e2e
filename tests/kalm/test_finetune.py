"""A policy that KALM trained offline goes on learning online: from what it is, on training goals, whatever stops it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("stable_baselines3")

from helpers.recipe_runs import CONFIGS
from helpers.running_episodes import begin
from safetensors.torch import load_file

from envs.clevr_robot import make
from envs.language import LanguageEnv
from kalm.finetune import NAME, START, ActorCritic, Finetune, FinetuneConfig, FinetuneRecipe, load_start, make_training
from kalm.offline import PolicyAgent
from kalm.policies import PolicySpec, train_policy
from kalm.recipe import KalmRecipe
from kalm.settings import KalmConfig
from kalm.stages import Collect
from kalm.workspace import UNSEEN, Workspace
from llm_agents.evaluation.results import read_result
from llm_agents.registry.recipes import load_agent
from llm_agents.rollouts.panels import make_panel
from llm_agents.rollouts.rollout import RunningEpisode
from llm_agents.runtime.config import parse_config
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import range_of
from llm_agents.training.sb3 import Training, observe

TINY = {
    "num_workers": 1,
    "data": {"num_rollouts": 100, "num_random_rollouts": 0},
    "imagination": {"methods": [], "num_rephrase": 8, "num_easy": 8, "num_hard": 8},
    "evaluation": {"num_episodes": 4},
}
POLICY = {"num_steps": 150, "batch_size": 64, "hidden_size": 32, "num_layers": 2}
SB3 = CONFIGS["kalm_finetune"]["ppo"]
ENVIRONMENTS = {"clevr": "envs:ClevrRobot-v0", "point": "helpers.point_mass:PointMass-v0"}


@pytest.fixture(scope="module")
def clevr(tmp_path_factory) -> Run:
    """A KALM run whose policy `real` is trained."""
    return make_start("clevr-bc", tmp_path_factory.mktemp("clevr") / "run")


@pytest.fixture(scope="module", params=["clevr-bc", "clevr-cql", "point-bc"])
def start(request, clevr, tmp_path_factory) -> Run:
    """The same of each kind: logits or values, discrete or continuous actions."""
    return clevr if request.param == "clevr-bc" else make_start(request.param, tmp_path_factory.mktemp("start") / "run")


def make_start(kind: str, folder, **changes) -> Run:
    environment, _, algorithm = kind.partition("-")
    data = TINY | {"environment": ENVIRONMENTS[environment], "policy": POLICY | {"algorithm": algorithm}} | changes
    config = parse_config(KalmConfig, data, kind)
    run = Run.create(folder, "kalm", config.model_dump(mode="json"))
    workspace = Workspace(config, run)
    Collect(workspace).run()
    train_policy(workspace, PolicySpec())
    return run


def make_config(start: Run, **changes) -> FinetuneConfig:
    data = {
        "environment": start.config["environment"],
        "start_from": {"run": str(start.folder), "agent": "real"},
        "num_workers": 1,
        "ppo": SB3,
        "evaluation": {"num_episodes": 4},
    }
    return parse_config(FinetuneConfig, data | changes, "here")


def finetune(config: FinetuneConfig, folder) -> Run:
    """A run that is trained and not judged."""
    run = Run.create(folder, "kalm_finetune", config.model_dump(mode="json"))
    Finetune(config, run).run()
    return run


def training_of(config: FinetuneConfig) -> Training:
    agent = load_start(config)
    return make_training(config, agent, ActorCritic(agent, config.seed))


def weights(run: Run, part: str) -> dict[str, torch.Tensor]:
    prefix = f"weights.mlp_extractor.{part}."
    tensors, _ = run.load_checkpoint(NAME)
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


def scores(path: Path) -> list[tuple]:
    """What stored rows say of the episodes, whoever played them."""
    rows = read_result(path).rows
    return [(row.seed, row.instruction, row.success, row.reward, row.length) for row in rows]


def lanes_of(make_env, split: str, count: int = 6) -> list[RunningEpisode]:
    """Episodes in progress, after a few random steps."""
    specs, episodes = make_panel(make_env().task, split, count, 5).specs, []
    for index, spec in enumerate(specs):
        env = make_env()
        env.action_space.seed(index)
        options = {"goal": spec.goal_id, "split": split, "instruction": spec.instruction}
        env.reset(seed=spec.seed, options=options)
        for _ in range(index):
            env.step(env.action_space.sample())
        episodes.append(begin(env, index, spec))
    return episodes


@torch.no_grad()
def test_before_any_update_it_acts_as_the_policy_it_started_from(start):
    """The same probabilities in real states, for goals of every split: of PPO's actor, and of KALM's own agent."""
    config, agent = make_config(start), load_agent(KalmRecipe(), start, "real")
    training = training_of(config)
    env = training.model.get_env().envs[0].unwrapped
    for split in ("train", *UNSEEN):
        episodes = lanes_of(lambda: FinetuneRecipe().make_env(config), split)
        observations = np.stack([observe(episode.state, episode.instruction, env._vectors) for episode in episodes])
        found = training.model.policy.get_distribution(torch.from_numpy(observations)).distribution
        found = torch.stack([part.probs for part in (found if isinstance(found, list) else [found])], 1)
        states = torch.from_numpy(np.stack([episode.state for episode in episodes]))
        rows = [agent.encoder.rows([episode.instruction]) for episode in episodes]  # beside others the last bits differ
        text = agent.encoder.packed(torch.cat(rows))
        logits = agent.algorithm.action_scores(states, text) / start.config["policy"]["temperature"]
        torch.testing.assert_close(found, logits.view_as(found).softmax(-1), rtol=1e-5, atol=1e-7)


def test_while_the_critic_warms_up_the_policy_does_not_move_and_then_it_does(start, tmp_path):
    untouched = load_start(make_config(start)).algorithm.policy.state_dict()
    warm = finetune(make_config(start, ppo=SB3 | {"num_rounds": 2, "value_warmup": 2}), tmp_path / "warm")
    moved = finetune(make_config(start, ppo=SB3 | {"num_rounds": 2, "value_warmup": 1}), tmp_path / "moved")
    fresh = ActorCritic(load_start(make_config(start)), 0).critic.state_dict()
    assert all(torch.equal(value, untouched[key]) for key, value in weights(warm, "actor").items())
    assert any(not torch.equal(value, untouched[key]) for key, value in weights(moved, "actor").items())
    assert any(not torch.equal(value, fresh[key]) for key, value in weights(warm, "critic").items())


def test_what_has_not_moved_is_judged_like_what_it_started_from(clevr, tmp_path, capsys):
    """In every column, episode by episode, beside random and expert."""
    config = make_config(clevr, ppo=SB3 | {"num_rounds": 1, "value_warmup": 1})
    run = Run.create(tmp_path / "run", "kalm_finetune", config.model_dump(mode="json"))
    FinetuneRecipe().run(config, run)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("random", "expert", START, NAME))
    outcomes = [(run.folder / "evaluation").rglob(f"{name}.jsonl") for name in (START, NAME)]
    first, second = ({path.parent.name: scores(path) for path in paths} for paths in outcomes)
    assert first == second
    assert len(first) == 5


def test_it_plays_training_goals_in_training_words_on_starts_of_training_alone(clevr, tmp_path, monkeypatch):
    asked = []
    reset = LanguageEnv.reset

    def spy(self, *, seed=None, options=None):
        asked.append((seed, options))
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(LanguageEnv, "reset", spy)
    config = make_config(clevr, ppo=SB3 | {"steps_per_round": 512})
    training_of(config).train(Run.create(tmp_path / "run", "kalm_finetune", {}))
    said = {goal.id: goal.phrasings for goal in make().task.goals("train")}
    assert len(asked) > 20
    assert all(options["split"] == "train" and range_of(seed) == "symbolic_ppo" for seed, options in asked)
    assert all(options["instruction"] in said[options["goal"]] for _, options in asked)


def test_the_agent_that_is_judged_has_the_policy_that_was_trained(start, tmp_path):
    run = finetune(make_config(start), tmp_path / "run")
    agent = load_agent(FinetuneRecipe(), run, NAME)
    assert isinstance(agent, PolicyAgent)
    trained = weights(run, "actor")
    assert all(torch.equal(value, trained[key]) for key, value in agent.algorithm.policy.state_dict().items())


def test_a_stopped_training_goes_on_as_if_it_had_not_been(clevr, tmp_path, monkeypatch):
    config = make_config(clevr)
    whole = finetune(config, tmp_path / "whole")
    log = Run.log

    def stop(self, stage, step, metrics):
        log(self, stage, step, metrics)
        if step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Run, "log", stop)
        with pytest.raises(KeyboardInterrupt):
            finetune(config, tmp_path / "cut")
    cut = Run.open(tmp_path / "cut")
    Finetune(config, cut).run()
    expected, found = (load_file(run.folder / "checkpoints" / f"{NAME}.safetensors") for run in (whole, cut))
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": {"run": "nowhere"}}, "nowhere is not a run folder"),
        ({"start_from": {"agent": "reel"}}, "did you mean real"),
        ({"start_from": {"agent": "lm"}}, "unknown start_from.agent 'lm'"),
        ({"start_from": {"agent": "real+oracle"}}, r"there is no checkpoint .*real\+oracle"),
        ({"environment": "envs:BabyAIRoom-v0"}, "was trained in envs:ClevrRobot-v0, not in envs:BabyAIRoom-v0"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_in_one_line(clevr, changes, message):
    start_from = {"run": str(clevr.folder), "agent": "real"} | changes.get("start_from", {})
    with pytest.raises(UserError, match=message) as error:
        load_start(make_config(clevr, **(changes | {"start_from": start_from})))
    assert "\n" not in str(error.value)


def test_only_a_run_of_kalm_that_acts_by_chance_is_a_start(clevr, tmp_path):
    other = Run.create(tmp_path / "other", "symbolic_ppo", clevr.config)
    with pytest.raises(UserError, match="recipe 'symbolic_ppo'"):
        load_start(make_config(other))
    cold = Path(shutil.copytree(clevr.folder, tmp_path / "cold"))
    text = (cold / "config.yaml").read_text()
    (cold / "config.yaml").write_text(text.replace("temperature: 0.5", "temperature: 0.0"))
    with pytest.raises(UserError, match=r"--start_from\.temperature"):
        load_start(make_config(Run.open(cold)))
    warm = make_config(Run.open(cold), start_from={"run": str(cold), "agent": "real", "temperature": 0.7})
    assert load_start(warm).temperature == 0.7
