"""Imagined rollouts: what would happen if someone pursued this goal from this state?

Three ways, which every result keeps apart:

- ``greedy``: the language model generates actions and states, most probable first (KALM as published).
- ``sample``: the same, sampled at a temperature, several rollouts a goal.
- ``search``: planning in a learned model. Every action is tried in the model's own dynamics, and the one whose outcome
  the task rewards most is taken; of continuous actions those that the LM would take, with noise, and then those near
  the best of them. With an MLP's dynamics instead of the LM's this is ``search_mlp``.

Each goes on from ``task.project`` of what the model predicts, the nearest state that can exist: where states are of
whole cells and one-hot numbers, the errors of many steps would add up to rooms that are none.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from envs.episodes import Episode
from envs.language import LanguageEnv, LanguageTask
from kalm.action_space import ActionSpace, ProposalSettings
from kalm.dynamics import Dynamics
from kalm.trajectory_lm import TrajectoryLM
from llm_agents.config import Settings
from llm_agents.language_model import concatenate, pad_left
from llm_agents.rollout import Case


class GenerationSettings(Settings):
    """How the language model writes rollouts by itself (``greedy`` and ``sample``)."""

    temperature: float = Field(1.0, gt=0)
    """``sample``: temperature of the action distribution."""
    num_samples: int = Field(4, ge=1)
    """``sample``: rollouts a case; those that pass verification are kept."""
    max_steps: int = Field(12, ge=1)
    """Length at which a rollout is cut, if the goal's horizon does not cut it before."""
    batch_size: int = Field(256, ge=1)
    """Rollouts written side by side."""


class SearchSettings(Settings):
    """How actions are searched in a learned model (``search`` and ``search_mlp``)."""

    noise: float = Field(0.2, ge=0)
    """Deviation of the noise on the rewards, in their units; keeps the search from walking in circles."""
    random_share: float = Field(0.1, ge=0, le=1)
    """Probability of a random one of the actions that are tried, for the same reason."""
    max_steps: int = Field(50, ge=1)
    """Length at which a rollout is cut, if the goal's horizon does not cut it before."""
    proposals: ProposalSettings = ProposalSettings()
    """Which continuous actions are tried."""


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
    piece_steps: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Episode]:
    """Rollouts written by the language model, one a case; it imagines both the actions and the states.

    A rollout ends when ``task.achieved`` holds in the imagined state. In a piece of a rollout the prompt is read once,
    and every further position once.

    Args:
        starts: (N, D), from `start_states`.
        temperature: 0 is greedy.
        piece_steps: after so many steps a rollout goes on as if it began in its present state, as rollouts in training
            do; no longer than the pieces the model was grounded on. By default a rollout is one piece.
        advance: told how many rollouts were written.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    episodes = []
    for begin in range(0, len(cases), settings.batch_size):
        part = slice(begin, begin + settings.batch_size)
        batch = _Batch(task, cases[part], starts[part], settings.max_steps, piece_steps or settings.max_steps)
        states, actions = _generate(model, batch, temperature, generator)
        episodes += _to_episodes(task, cases[part], states, actions)
        advance(len(cases[part]))
    return episodes


class _Batch(NamedTuple):
    """Rollouts to be written side by side."""

    task: LanguageTask
    cases: Sequence[Case]
    starts: NDArray
    max_steps: int
    piece_steps: int


@torch.inference_mode()
def _generate(
    model: TrajectoryLM, batch: _Batch, temperature: float, generator: torch.Generator
) -> tuple[NDArray, NDArray]:
    """States (N, T + 1, D) and actions (N, T, ...) of one batch; rows run on after they have ended."""
    prompt, mask = _prompt(model, batch.cases)
    judge = _Judges(batch.task, batch.cases, batch.starts)
    state = torch.as_tensor(batch.starts, device=model.device)
    states, actions = [state], []
    for step in range(batch.max_steps):
        if step % batch.piece_steps == 0:
            context = _Context(model, prompt, mask, min(batch.piece_steps, batch.max_steps - step))
        logits = model.action_logits(context.read(model.embed_states(state)))
        action = model.actions.draw(logits, temperature, generator)
        predicted = model.next_states(state, context.read(model.embed_actions(state, action)))
        reached = batch.task.project(predicted.cpu().numpy())
        state = torch.as_tensor(reached, device=model.device)
        states.append(state)
        actions.append(action)
        if judge.all_achieved(reached):
            break
    return torch.stack(states, 1).cpu().numpy(), torch.stack(actions, 1).cpu().numpy()


def _prompt(model: TrajectoryLM, cases: Sequence[Case]) -> tuple[Tensor, Tensor]:
    """What the rollouts follow, (N, L, H), and its mask (N, L), padded left."""
    count = len(cases)
    texts = model.lm.embed_texts([case.instruction for case in cases])
    embeds, mask, _ = concatenate([model.marker("goal", count), texts, model.marker("rollout", count)])
    return pad_left(embeds, mask)


class _Context:
    """What a model has read of some rollouts, with room for a prompt and ``num_steps`` steps."""

    def __init__(self, model: TrajectoryLM, prompt: Tensor, mask: Tensor, num_steps: int) -> None:
        self._lm, self._unread, self._mask = model.lm, prompt, mask
        self._cache = model.lm.make_cache(prompt.shape[1] + 2 * num_steps)

    def read(self, embeds: Tensor) -> Tensor:
        """The hidden states (N, H) at one more position (N, H)."""
        unread = torch.cat([self._unread, embeds[:, None]], 1)
        self._unread = unread[:, :0]
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        return self._lm.hidden_states(unread, self._mask, self._cache)[:, -1]


Propose = Callable[[Sequence[str], Tensor], Tensor]
"""A policy: N instructions and states (N, D) -> action logits (N, L)."""


def search(
    dynamics: Dynamics,
    task: LanguageTask,
    actions: ActionSpace,
    propose: Propose,
    cases: Sequence[Case],
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
    rng = np.random.default_rng(seed)
    horizons = np.array([min(settings.max_steps, task.horizon(_goal(task, case))) for case in cases])
    states: list[list[NDArray]] = [[start] for start in starts]
    taken: list[list] = [[] for _ in cases]
    running, step = np.arange(len(cases)), 0
    while len(running):
        here = [cases[int(row)] for row in running]
        judge = _Judges(task, here, starts[running])
        current = np.stack([states[row][-1] for row in running])
        lookahead = _Lookahead(dynamics, task, judge, current)
        policy = partial(propose, [case.instruction for case in here], torch.from_numpy(current))
        tried = actions.candidates(len(running), policy, lookahead.scores, settings.proposals, rng)
        chosen, reached = _choose(lookahead.outlook(tried), settings, rng)
        for row, action, state in zip(running, tried.numpy()[np.arange(len(running)), chosen], reached, strict=True):
            taken[row].append(action)
            states[row].append(state)
        step += 1
        ended = judge.achieved(reached) | (step >= horizons[running])
        advance(int(ended.sum()))
        running = running[~ended]
    rollouts = zip(cases, states, taken, strict=True)
    return [_to_episode(task, case, np.stack(s), np.array(a)) for case, s, a in rollouts]


class _Outlook(NamedTuple):
    """What K actions in each of N states lead to: the next states (N, K, D), which can exist, their rewards (N, K), and
    whether physics allows what was predicted (N, K)."""

    outcomes: NDArray
    rewards: NDArray
    possible: NDArray


class _Lookahead:
    """One step ahead of N states (N, D), in learned dynamics."""

    def __init__(self, dynamics: Dynamics, task: LanguageTask, judge: _Judges, current: NDArray) -> None:
        self._dynamics, self._task, self._judge, self._current = dynamics, task, judge, current

    def outlook(self, actions: Tensor) -> _Outlook:
        predicted = self._dynamics.outcomes(torch.from_numpy(self._current), actions).cpu().numpy()
        possible = self._task.plausible(self._current[:, None], actions.numpy(), predicted)
        outcomes = self._task.project(predicted)
        return _Outlook(outcomes, self._judge.rewards(self._current, outcomes), possible)

    def scores(self, actions: Tensor) -> NDArray:
        """How good actions are, (N, K)."""
        _, rewards, possible = self.outlook(actions)
        return np.where(possible, rewards, -np.inf)


def _choose(outlook: _Outlook, settings: SearchSettings, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """The candidates taken (N,), with noise and by chance, and the states (N, D) they lead to."""
    rewards = outlook.rewards + settings.noise * rng.standard_normal(outlook.rewards.shape)
    random = rng.random(len(rewards)) < settings.random_share
    rewards[random] = rng.standard_normal((int(random.sum()), rewards.shape[1]))
    # An outcome that physics forbids is an error of the model, and search would find it out.
    chosen = np.where(outlook.possible, rewards, -np.inf).argmax(1)
    return chosen, outlook.outcomes[np.arange(len(chosen)), chosen]


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
        """Rewards of the outcomes of K actions: (N, D), (N, K, D) -> (N, K)."""
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
