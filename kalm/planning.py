"""Planning in a learned model: one step of lookahead in its dynamics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from envs.episodes import Episode
from envs.language import LanguageTask
from kalm.action_space import ActionSpace, ProposalSettings
from kalm.dynamics import Dynamics
from kalm.judging import GoalPredicates, goal_of, to_episode
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.settings import Settings
from llm_agents.runtime.streams import stream


class SearchSettings(Settings):
    """How actions are searched in a learned model (``search`` and ``search_mlp``)."""

    renamed: ClassVar[Mapping[str, str]] = {"random_share": "random_fraction"}

    noise: float = Field(0.2, ge=0)
    """Deviation of the noise on the rewards, in their units; keeps the search from walking in circles."""
    random_fraction: float = Field(0.1, ge=0, le=1)
    """Probability of a random one of the actions that are tried, for the same reason."""
    max_steps: int = Field(50, ge=1)
    """Length at which a rollout is cut, if the goal's horizon does not cut it before."""
    proposals: ProposalSettings = ProposalSettings()
    """Which continuous actions are tried."""


Propose = Callable[[Sequence[str], Tensor], Tensor]
"""A policy: N instructions and states (N, D) -> action logits (N, L)."""


def search(
    dynamics: Dynamics,
    task: LanguageTask,
    actions: ActionSpace,
    propose: Propose,
    specs: Sequence[EpisodeSpec],
    starts: NDArray,
    settings: SearchSettings,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Episode]:
    """Rollouts by one step of lookahead in learned dynamics, one a case, all side by side.

    In each state the `ActionSpace.candidates` are tried in the model, and of the outcomes that are plausible the one
    with the highest ``task.reward`` is taken.

    Args:
        propose: where continuous candidates come from; discrete actions are all tried.
        starts: (N, D), from `start_states`.
        advance: told how many rollouts have ended.
    """
    rng = stream(seed, "imagination/search")
    horizons = np.array([min(settings.max_steps, task.horizon(goal_of(task, spec))) for spec in specs])
    states: list[list[NDArray]] = [[start] for start in starts]
    taken: list[list] = [[] for _ in specs]
    running, step = np.arange(len(specs)), 0
    while len(running):
        here = [specs[int(row)] for row in running]
        predicates = GoalPredicates(task, here, starts[running])
        current = np.stack([states[row][-1] for row in running])
        lookahead = _Lookahead(dynamics, task, predicates, current)
        policy = partial(propose, [spec.instruction for spec in here], torch.from_numpy(current))
        tried = actions.candidates(len(running), policy, lookahead.scores, settings.proposals, rng)
        chosen, reached = _choose(lookahead.outlook(tried), settings, rng)
        for row, action, state in zip(running, tried.numpy()[np.arange(len(running)), chosen], reached, strict=True):
            taken[row].append(action)
            states[row].append(state)
        step += 1
        ended = predicates.achieved(reached) | (step >= horizons[running])
        advance(int(ended.sum()))
        running = running[~ended]
    rollouts = zip(specs, states, taken, strict=True)
    return [to_episode(task, spec, np.stack(s), np.array(a)) for spec, s, a in rollouts]


class _Outlook(NamedTuple):
    """What K actions in each of N states lead to: the next states (N, K, D), which can exist, their rewards (N, K), and
    whether physics allows what was predicted (N, K)."""

    outcomes: NDArray
    rewards: NDArray
    possible: NDArray


class _Lookahead:
    """One step ahead of N states (N, D), in learned dynamics."""

    def __init__(self, dynamics: Dynamics, task: LanguageTask, predicates: GoalPredicates, current: NDArray) -> None:
        self._dynamics, self._task, self._predicates, self._current = dynamics, task, predicates, current

    def outlook(self, actions: Tensor) -> _Outlook:
        predicted = self._dynamics.outcomes(torch.from_numpy(self._current), actions).cpu().numpy()
        possible = self._task.plausible(self._current[:, None], actions.numpy(), predicted)
        outcomes = self._task.project(predicted)
        return _Outlook(outcomes, self._predicates.rewards(self._current, outcomes), possible)

    def scores(self, actions: Tensor) -> NDArray:
        """How good actions are, (N, K)."""
        _, rewards, possible = self.outlook(actions)
        return np.where(possible, rewards, -np.inf)


def _choose(outlook: _Outlook, settings: SearchSettings, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """The candidates taken (N,), with noise and by chance, and the states (N, D) they lead to."""
    rewards = outlook.rewards + settings.noise * rng.standard_normal(outlook.rewards.shape)
    random = rng.random(len(rewards)) < settings.random_fraction
    rewards[random] = rng.standard_normal((int(random.sum()), rewards.shape[1]))
    # An outcome that physics forbids is an error of the model, and search would find it out.
    chosen = np.where(outlook.possible, rewards, -np.inf).argmax(1)
    return chosen, outlook.outcomes[np.arange(len(chosen)), chosen]
