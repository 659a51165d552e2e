"""Convert episodes to and from the data sets of d3rlpy and Minari, where those libraries are installed.

Their data sets have no goals in words: what an episode was for comes from its `EpisodeSpec`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.episodes import Episode
from envs.language import LanguageTask
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.errors import UserError


def to_d3rlpy(episodes: Iterable[Episode], goal_features: Callable[[str], NDArray] | None = None) -> Any:
    """Convert episodes to a d3rlpy ``MDPDataset`` with their transitions.

    d3rlpy keeps one observation per step, and takes no transition from the last step of an episode that did not
    terminate. Such an episode gets one more step for its last state, with the last action again and no reward.

    Args:
        episodes: with actions that are either all discrete or all continuous.
        goal_features: returns, for an instruction, a vector (F,) that follows the state in every observation; without
            it observations are states (D,).

    Raises:
        UserError: d3rlpy is not installed, or there is no episode.
    """
    d3rlpy = _import("d3rlpy")
    parts = [_d3rlpy_steps(episode, goal_features) for episode in episodes]
    if not parts:
        raise UserError("there is no episode to convert")
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    return d3rlpy.dataset.MDPDataset(**{name: np.concatenate([part[name] for part in parts]) for name in names})


def from_d3rlpy(dataset: Any, specs: Sequence[EpisodeSpec], task: LanguageTask) -> list[Episode]:
    """Return the episodes of a d3rlpy data set whose observations are states.

    d3rlpy keeps no state after a step that terminates, so the state before it takes its place. The episode counts as
    successful, since in a `LanguageEnv` success is what terminates. Learning from terminal transitions does not look at
    the state after them; learning dynamics must leave them out.

    Args:
        dataset: a ``ReplayBuffer`` such as ``MDPDataset``.
        specs: what each of its episodes was for, in their order.
        task: the environment's task.

    Raises:
        UserError: there is not one spec for each episode.
    """
    _check_count(len(dataset.episodes), specs)
    return [_from_d3rlpy(found, spec, task) for found, spec in zip(dataset.episodes, specs, strict=True)]


def to_minari(episodes: Iterable[Episode], dataset_id: str, env: gymnasium.Env, **more: Any) -> Any:
    """Store a Minari data set whose observations are states where Minari keeps its own (``MINARI_DATASETS_PATH``).

    Args:
        episodes: the ``seed`` and goal (as reset options) are kept with each.
        dataset_id: such as ``clevr_robot/expert-v0``.
        env: the `LanguageEnv` they come from, for its spaces.
        more: further arguments of ``minari.create_dataset_from_buffers``, such as ``author``.

    Raises:
        UserError: Minari is not installed.
    """
    minari = _import("minari")
    spaces: Any = env.unwrapped
    buffers = [
        minari.data_collector.EpisodeBuffer(
            id=number,
            seed=episode.seed,
            options={"goal": episode.goal_id, "split": episode.split, "instruction": episode.instruction},
            observations=episode.states,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=_last(len(episode), episode.terminated),
            truncations=_last(len(episode), episode.truncated),
        )
        for number, episode in enumerate(episodes)
    ]
    return minari.create_dataset_from_buffers(
        dataset_id,
        buffers,
        observation_space=spaces.observation_space["state"],
        action_space=spaces.action_space,
        **more,
    )


def from_minari(dataset: Any, specs: Sequence[EpisodeSpec], task: LanguageTask) -> list[Episode]:
    """Return the episodes of a Minari data set whose observations are states; see `from_d3rlpy` for the arguments.

    Success is what ``task.achieved`` says of the last state.

    Raises:
        UserError: there is not one spec for each episode.
    """
    _check_count(len(dataset), specs)
    return [
        _episode(
            spec,
            task,
            states=np.asarray(found.observations, np.float32),
            actions=np.asarray(found.actions),
            rewards=np.asarray(found.rewards, np.float32),
            terminated=bool(found.terminations[-1]),
        )
        for found, spec in zip(dataset.iterate_episodes(), specs, strict=True)
    ]


def _d3rlpy_steps(episode: Episode, goal_features: Callable[[str], NDArray] | None) -> dict[str, NDArray]:
    """Return the rows of one episode: T of them, or T + 1 if it did not terminate."""
    extra = 0 if episode.terminated else 1
    steps = len(episode) + extra
    observations = episode.states[:steps]
    if goal_features is not None:
        features = np.asarray(goal_features(episode.instruction), np.float32)
        observations = np.concatenate([observations, np.tile(features, (steps, 1))], axis=1)
    actions = np.concatenate([episode.actions, episode.actions[-1:].repeat(extra, axis=0)])
    return {
        "observations": observations,
        "actions": actions[:, None] if actions.ndim == 1 else actions,
        "rewards": np.pad(episode.rewards, (0, extra)),
        "terminals": _last(steps, episode.terminated).astype(np.float32),
        "timeouts": _last(steps, not episode.terminated).astype(np.float32),
    }


def _from_d3rlpy(found: Any, spec: EpisodeSpec, task: LanguageTask) -> Episode:
    steps = len(found.actions) if found.terminated else len(found.actions) - 1
    states = np.asarray(found.observations, np.float32)
    states = np.concatenate([states, states[-1:]]) if found.terminated else states
    actions = np.asarray(found.actions[:steps])
    return _episode(
        spec,
        task,
        states=states,
        actions=actions[:, 0] if np.issubdtype(actions.dtype, np.integer) else actions,
        rewards=np.asarray(found.rewards[:steps, 0], np.float32),
        terminated=bool(found.terminated),
        success=bool(found.terminated),
    )


def _episode(
    spec: EpisodeSpec,
    task: LanguageTask,
    states: NDArray[np.float32],
    actions: NDArray,
    rewards: NDArray[np.float32],
    terminated: bool,
    success: bool | None = None,
) -> Episode:
    goal = task.goal_set.find(spec.goal_id, spec.split)
    if success is None:
        success = bool(task.achieved(goal, states[-1], states[0]))
    return Episode(
        goal_id=goal.id,
        family=goal.family,
        split=spec.split,
        instruction=spec.instruction,
        states=states,
        actions=actions,
        rewards=rewards,
        terminated=terminated,
        truncated=not terminated,
        success=success,
        source="env",
        seed=spec.seed,
    )


def _last(steps: int, value: bool) -> NDArray[np.bool_]:
    """Return (T,) booleans: ``value`` for the last step, false for the others."""
    flags = np.zeros(steps, bool)
    flags[-1:] = value
    return flags


def _check_count(num_episodes: int, specs: Sequence[EpisodeSpec]) -> None:
    if num_episodes != len(specs):
        raise UserError(f"the data set has {num_episodes} episodes, but {len(specs)} cases were given")


def _import(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"{name} cannot be imported ({error}): pip install {name}") from None
