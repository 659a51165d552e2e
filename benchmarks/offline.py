"""Gradient steps of offline RL, against d3rlpy on the same transitions with the same batch and hidden sizes.

Ours reads the tokens of a goal by attention. For d3rlpy an observation is the state followed by the sentence embedding,
as in ImagineBench, so it computes less in each step. Each side trains as its users would, by ``fit``.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.harness import Comparison, Skipped
from envs.clevr_robot import make
from envs.clevr_robot.env import NUM_ACTIONS
from envs.clevr_robot.task import ClevrRobotTask
from envs.episodes import Episode
from kalm.action_space import DiscreteActions
from kalm.offline import ALGORITHMS, OfflineData, PolicySettings
from kalm.specs import training_specs
from kalm.trajectories import Trajectories, Transitions
from kalm.trajectory_lm import StateNormalizer
from llm_agents.agents.scripted import ExpertAgent
from llm_agents.models.text_encoder import TextEncoder
from llm_agents.rollouts.rollout import rollout
from llm_agents.runtime.run import Run
from llm_agents.training.loop import fit

NUM_EPISODES = 400
NUM_STEPS = 100  # in one call of fit


def comparisons() -> Iterator[Comparison | Skipped]:
    """Compare behaviour cloning and discrete CQL."""
    names = {"bc": "DiscreteBC", "cql": "DiscreteCQL"}
    if find_spec("d3rlpy") is None:
        reason = "d3rlpy is missing; pip install -c constraints.txt -e '.[peers]'"
        yield from (Skipped(f"{ours} steps", reason) for ours in names)
        return
    task = ClevrRobotTask()
    cases = training_specs(task, "gate", NUM_EPISODES, seed=0)
    episodes = list(rollout(ExpertAgent(task), make, cases))
    encoder = TextEncoder.load()
    with tempfile.TemporaryDirectory() as folder:
        for ours, theirs in names.items():
            settings = ALGORITHMS[ours].Settings(num_steps=NUM_STEPS)
            yield Comparison(
                f"{ours} steps",
                "steps",
                f"d3rlpy {theirs}",
                our_fit(encoder, episodes, settings, Path(folder) / ours),
                their_fit(encoder, episodes, settings, theirs),
            )


def our_fit(
    encoder: TextEncoder, episodes: Sequence[Episode], settings: PolicySettings, folder: Path
) -> Callable[[], float]:
    """Return a function that trains for `NUM_STEPS` more steps."""
    real = Trajectories.of(episodes)
    transitions = Transitions.of(real)
    scale = StateNormalizer.of(transitions.states, transitions.next_states)
    data = OfflineData(encoder, real, None, 0.0, settings.batch_size, seed=0)
    algorithm = ALGORITHMS[settings.algorithm](encoder.dim, scale, DiscreteActions(NUM_ACTIONS), settings)
    run = Run.create(folder, "benchmark", {})
    calls = count()

    def train() -> float:
        stage = f"call_{next(calls)}"
        fit(algorithm, settings, data.batch, run, stage, after_step=algorithm.after_step, show_progress=False)
        return settings.num_steps

    return train


def their_fit(
    encoder: TextEncoder, episodes: Sequence[Episode], settings: PolicySettings, name: str
) -> Callable[[], float]:
    """Return the same for d3rlpy."""
    import d3rlpy

    sizes = [settings.hidden_size] * settings.num_layers
    config = getattr(d3rlpy.algos, f"{name}Config")(
        batch_size=settings.batch_size, encoder_factory=d3rlpy.models.VectorEncoderFactory(hidden_units=sizes)
    )
    algorithm = config.create()
    dataset = d3rlpy.dataset.ReplayBuffer(
        d3rlpy.dataset.InfiniteBuffer(),
        episodes=[_as_theirs(encoder, episode) for episode in episodes],
        action_space=d3rlpy.ActionSpace.DISCRETE,
        action_size=NUM_ACTIONS,
    )

    def train() -> float:
        algorithm.fit(
            dataset,
            n_steps=settings.num_steps,
            n_steps_per_epoch=settings.num_steps,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
        )
        return settings.num_steps

    return train


def _as_theirs(encoder: TextEncoder, episode: Episode):
    """Convert an episode of ours, with the instruction's sentence embedding after the state in each observation."""
    from d3rlpy.dataset import Episode as TheirEpisode

    states = episode.states[:-1]
    goal = encoder.encode([episode.instruction]).sentence_embedding().numpy()
    return TheirEpisode(
        observations=np.concatenate([states, np.repeat(goal, len(states), 0)], 1),
        actions=episode.actions[:, None],
        rewards=episode.rewards[:, None],
        terminated=episode.terminated,
    )
