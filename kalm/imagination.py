"""Imagined rollouts: what would happen if someone pursued this goal from this state?

Three ways, which every result keeps apart:

- ``greedy``: the language model generates actions and states, most probable first (KALM as published).
- ``sample``: the same, sampled at a temperature, several rollouts a goal.
- ``search``: planning in a learned model. Every action is tried in the model's own dynamics, and the one whose outcome
  the task rewards most is taken. With an MLP's dynamics instead of the LM's this is ``search_mlp``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from envs.episodes import Episode
from envs.language import LanguageEnv, LanguageTask
from kalm.dynamics import Dynamics
from kalm.trajectory_lm import TrajectoryLM
from llm_agents.config import Settings
from llm_agents.language_model import concatenate, draw, pad_left
from llm_agents.rollout import Case


class GenerationSettings(Settings):
    """How the language model writes rollouts by itself (``greedy`` and ``sample``)."""

    temperature: float = Field(1.0, gt=0)
    """``sample``: temperature of the action distribution."""
    num_samples: int = Field(4, ge=1)
    """``sample``: rollouts a case; those that pass verification are kept."""
    max_steps: int = Field(12, ge=1)
    """Length at which a rollout is cut, if the goal's horizon does not cut it before; no longer than the pieces the
    model was grounded on."""
    batch_size: int = Field(256, ge=1)
    """Rollouts written side by side."""


class SearchSettings(Settings):
    """How actions are searched in a learned model (``search`` and ``search_mlp``)."""

    noise: float = Field(0.2, ge=0)
    """Deviation of the noise on the rewards, in their units; keeps the search from walking in circles."""
    random_share: float = Field(0.1, ge=0, le=1)
    """Probability of a random action, for the same reason."""
    max_steps: int = Field(50, ge=1)
    """Length at which a rollout is cut, if the goal's horizon does not cut it before."""


def start_states(make_env: Callable[[], LanguageEnv], cases: Sequence[Case]) -> NDArray[np.float32]:
    """The real start state of each case, (N, D): where its imagined rollout begins."""
    env = make_env()
    starts = []
    for case in cases:
        options = {"goal": case.goal_id, "split": case.split, "instruction": case.instruction}
        observation, _ = env.reset(seed=case.seed, options=options)
        starts.append(observation["state"])
    env.close()
    return np.stack(starts)


def generate(
    model: TrajectoryLM,
    task: LanguageTask,
    cases: Sequence[Case],
    starts: NDArray,
    settings: GenerationSettings,
    temperature: float,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Episode]:
    """Rollouts written by the language model, one a case; it imagines both the actions and the states.

    A rollout ends when ``task.achieved`` holds in the imagined state. The prompt is read once, and every further
    position once.

    Args:
        starts: (N, D), from `start_states`.
        temperature: 0 is greedy.
        advance: told how many rollouts were written.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    episodes = []
    for begin in range(0, len(cases), settings.batch_size):
        part = slice(begin, begin + settings.batch_size)
        states, actions = _generate(model, task, cases[part], starts[part], settings.max_steps, temperature, generator)
        episodes += _to_episodes(task, cases[part], states, actions)
        advance(len(cases[part]))
    return episodes


@torch.inference_mode()
def _generate(
    model: TrajectoryLM,
    task: LanguageTask,
    cases: Sequence[Case],
    starts: NDArray,
    max_steps: int,
    temperature: float,
    generator: torch.Generator,
) -> tuple[NDArray, NDArray]:
    """States (N, T + 1, D) and actions (N, T) of one batch; rows run on after they have ended."""
    count = len(cases)
    prompt, mask, _ = concatenate(
        [
            model.marker("goal", count),
            model.lm.embed_texts([case.instruction for case in cases]),
            model.marker("rollout", count),
        ]
    )
    prompt, mask = pad_left(prompt, mask)
    cache = model.lm.make_cache(prompt.shape[1] + 2 * max_steps)
    judge = _Judges(task, cases, starts)
    state = torch.as_tensor(starts, device=model.device)
    states, actions = [state], []
    embeds = torch.cat([prompt, model.embed_states(state)[:, None]], 1)
    for step in range(max_steps):
        mask = _longer(mask)
        hidden = model.lm.hidden_states(embeds, mask, cache)[:, -1]
        action, _ = draw(model.action_logits(hidden), temperature, generator)
        mask = _longer(mask)
        hidden = model.lm.hidden_states(model.embed_actions(state, action)[:, None], mask, cache)[:, -1]
        state = model.next_states(state, hidden)
        states.append(state)
        actions.append(action)
        if judge.all_achieved(state.cpu().numpy()) or step + 1 == max_steps:
            break
        embeds = model.embed_states(state)[:, None]
    return torch.stack(states, 1).cpu().numpy(), torch.stack(actions, 1).cpu().numpy()


def search(
    dynamics: Dynamics,
    task: LanguageTask,
    cases: Sequence[Case],
    starts: NDArray,
    settings: SearchSettings,
    seed: int = 0,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Episode]:
    """Rollouts by one step of lookahead in learned dynamics, one a case, all side by side.

    In each state every action is tried in the model, and of the outcomes that are plausible the one with the highest
    ``task.reward`` is taken.

    Args:
        starts: (N, D), from `start_states`.
        advance: told how many rollouts have ended.
    """
    rng = np.random.default_rng(seed)
    horizons = [min(settings.max_steps, task.horizon(_goal(task, case))) for case in cases]
    states: list[list[NDArray]] = [[start] for start in starts]
    actions: list[list[int]] = [[] for _ in cases]
    running = np.arange(len(cases))
    while len(running):
        current = np.stack([states[row][-1] for row in running])
        outcomes = dynamics.outcomes(torch.from_numpy(current)).cpu().numpy()
        judge = _Judges(task, [cases[int(row)] for row in running], starts[running])
        scores = judge.rewards(current, outcomes) + settings.noise * rng.standard_normal(outcomes.shape[:2])
        random = rng.random(len(running)) < settings.random_share
        scores[random] = rng.standard_normal((int(random.sum()), scores.shape[1]))
        # An outcome that physics forbids is an error of the model, and search would find it out.
        possible = task.plausible(current[:, None], np.arange(scores.shape[1]), outcomes)
        chosen = np.where(possible, scores, -np.inf).argmax(1)
        reached = outcomes[np.arange(len(running)), chosen]
        for row, action, state in zip(running, chosen, reached, strict=True):
            actions[row].append(int(action))
            states[row].append(state)
        ended = judge.achieved(reached) | np.array([len(actions[row]) >= horizons[row] for row in running])
        advance(int(ended.sum()))
        running = running[~ended]
    pairs = zip(cases, states, actions, strict=True)
    return [_to_episode(task, case, np.stack(s), np.array(a)) for case, s, a in pairs]


class _Judges:
    """Judges many rollouts for different goals at once: rows with the same goal are judged together."""

    def __init__(self, task: LanguageTask, cases: Sequence[Case], starts: NDArray) -> None:
        self._task = task
        self._starts = starts
        rows = defaultdict(list)
        for row, case in enumerate(cases):
            rows[case.goal_id, case.split].append(row)
        self._groups = [(task.goal_set.find(*key), np.array(group)) for key, group in rows.items()]

    def achieved(self, states: NDArray) -> NDArray[np.bool_]:
        """(N, D) -> (N,)."""
        result = np.zeros(len(states), bool)
        for goal, rows in self._groups:
            result[rows] = self._task.achieved(goal, states[rows], self._starts[rows])
        return result

    def all_achieved(self, states: NDArray) -> bool:
        """Whether each row has been achieved in this state or in one shown before."""
        self._ever = getattr(self, "_ever", False) | self.achieved(states)
        return bool(self._ever.all())

    def rewards(self, states: NDArray, outcomes: NDArray) -> NDArray:
        """Rewards of every action's outcome: (N, D), (N, A, D) -> (N, A)."""
        result = np.empty(outcomes.shape[:2])
        for goal, rows in self._groups:
            starts = self._starts[rows, None]
            result[rows] = self._task.reward(goal, states[rows, None], outcomes[rows], starts)
        return result


def _to_episodes(task: LanguageTask, cases: Sequence[Case], states: NDArray, actions: NDArray) -> list[Episode]:
    """One episode a row, each cut where its goal is first achieved, or at the goal's horizon."""
    episodes = []
    for case, row_states, row_actions in zip(cases, states, actions, strict=True):
        goal = _goal(task, case)
        horizon = min(len(row_actions), task.horizon(goal))
        achieved = task.achieved(goal, row_states[1 : horizon + 1], row_states[:1])
        length = int(achieved.argmax()) + 1 if achieved.any() else horizon
        episodes.append(_to_episode(task, case, row_states[: length + 1], row_actions[:length]))
    return episodes


def _to_episode(task: LanguageTask, case: Case, states: NDArray, actions: NDArray) -> Episode:
    """An imagined episode, judged by the code that judges real ones."""
    goal = _goal(task, case)
    start = states[:1]
    success = bool(task.achieved(goal, states[-1:], start)[0])
    return Episode(
        goal_id=goal.id,
        family=goal.family,
        split=case.split,
        instruction=case.instruction,
        states=np.asarray(states, np.float32).copy(),
        actions=np.asarray(actions).copy(),
        rewards=np.asarray(task.reward(goal, states[:-1], states[1:], start), np.float32),
        terminated=success,
        truncated=not success,
        success=success,
        source="imagined",
        seed=case.seed,
    )


def _goal(task: LanguageTask, case: Case):
    return task.goal_set.find(case.goal_id, case.split)


def _longer(mask: Tensor) -> Tensor:
    return torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
