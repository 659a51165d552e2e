"""Is an imagined rollout plausible, and did it reach its goal?

Verifying is easier than generating: an imagined rollout is judged by the environment's own predicates, like a real one.
`replay` then asks the environment itself, on a sample, how far such verdicts can be trusted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from envs.episodes import Episode
from envs.language import LanguageEnv, LanguageTask
from kalm.dynamics import Dynamics
from kalm.trajectories import Trajectories
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.settings import Settings


class VerificationSettings(Settings):
    """When an imagined rollout is accepted, and when imagination as a whole is trusted."""

    max_disagreement: float = Field(0.1, gt=0)
    """Largest difference between an imagined state and the model's own prediction of it, in any number of the state."""
    disagreement_unit: Literal["state", "step"] = "state"
    """What it is measured in: the state's own units (metres in CLEVR-Robot), or, where its numbers have units of their
    own, the deviation of each number's change in a step."""
    num_replayed: int = Field(200, ge=1)
    """Imagined rollouts for training goals that are replayed in the environment before any imagined data is used."""
    min_replay_success: float = Field(0.4, ge=0, le=1)
    """The quality gate: below this success of replayed rollouts the recipe stops."""


@dataclass(frozen=True)
class Verdict:
    """The result of verifying N imagined rollouts, each (N,) bool."""

    plausible: NDArray[np.bool_]
    consistent: NDArray[np.bool_]
    success: NDArray[np.bool_]

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Plausible, consistent with the model's own dynamics, and successful."""
        return self.plausible & self.consistent & self.success


def verify(
    episodes: Sequence[Episode],
    task: LanguageTask,
    dynamics: Dynamics,
    step_std: Tensor,
    settings: VerificationSettings,
) -> Verdict:
    """Judge imagined rollouts, without looking at the environment.

    - plausible: ``task.plausible`` for every transition (bounds, step sizes, nothing inside another thing);
    - consistent: every state is near what ``dynamics`` predicts from its predecessor, projected to the nearest state
      that can exist (``task.project``);
    - success: ``task.achieved`` in the last state.

    Args:
        step_std: the deviation of each number's change in a step, (D,).
    """
    trajectories = Trajectories.of(episodes)
    rows, steps = trajectories.transitions()
    states, next_states = trajectories.states[rows, steps], trajectories.states[rows, steps + 1]
    actions = trajectories.actions[rows, steps]
    unit = step_std if settings.disagreement_unit == "step" else torch.ones_like(step_std)
    predicted = torch.from_numpy(task.project(dynamics.predict(states, actions).cpu().numpy()))
    disagreement = ((predicted - next_states).abs() / unit).amax(-1)
    plausible = task.plausible(states.numpy(), actions.numpy(), next_states.numpy())
    return Verdict(
        plausible=_all_steps(plausible, rows.numpy(), len(episodes)),
        consistent=_all_steps((disagreement <= settings.max_disagreement).numpy(), rows.numpy(), len(episodes)),
        success=np.array([_succeeds(task, episode) for episode in episodes]),
    )


def _succeeds(task: LanguageTask, episode: Episode) -> bool:
    """Return whether the goal holds in the last state, whatever the rollout itself says."""
    goal = task.goal_set.find(episode.goal_id, episode.split)
    return bool(task.achieved(goal, episode.states[-1:], episode.states[:1])[0])


def _all_steps(good: NDArray[np.bool_], rows: NDArray, count: int) -> NDArray[np.bool_]:
    """Return whether all of a rollout's transitions are good."""
    bad = np.zeros(count, bool)
    bad[rows[~good]] = True
    return ~bad


def first_accepted(episodes: Sequence[Episode], verdict: Verdict) -> list[Episode]:
    """Return the first rollout of each episode spec that passed verification."""
    found: dict[tuple, Episode] = {}
    for episode, accepted in zip(episodes, verdict.accepted, strict=True):
        if accepted:
            found.setdefault((episode.goal_id, episode.instruction, episode.seed), episode)
    return list(found.values())


@dataclass(frozen=True)
class Replay:
    """The outcome of a rollout's actions in the environment.

    Attributes:
        success: whether the goal was reached at any step.
        state_error: mean absolute difference between imagined and real states, in units of the state.
    """

    success: bool
    state_error: float


def replay(make_env: Callable[[], LanguageEnv], episodes: Sequence[Episode]) -> list[Replay]:
    """Replay the actions of each rollout in the environment, open loop, from the start it was imagined from."""
    env = make_env()
    replays = []
    for episode in episodes:
        options = {"goal": episode.goal_id, "split": episode.split, "instruction": episode.instruction}
        env.reset(seed=episode.seed, options=options)
        real, info = [], {"is_success": False}
        for action in episode.actions:
            observation, _, terminated, truncated, info = env.step(action)
            real.append(observation["state"])
            if terminated or truncated:
                break
        error = float(np.abs(np.stack(real) - episode.states[1 : len(real) + 1]).mean())
        replays.append(Replay(bool(info["is_success"]), error))
    env.close()
    return replays


def verdict_row(verdict: Verdict, sample: NDArray[np.integer], replays: Sequence[Replay]) -> dict[str, float]:
    """Summarise what verification says of all rollouts, and how it agrees with the environment on a replayed sample.

    Args:
        sample: the indices of the replayed rollouts.
        replays: their replays, in the same order.

    Returns:
        Fractions between 0 and 1, and ``state_error`` in units of the state. ``tpr`` and ``fpr``: the fraction of the
        rollouts that succeed (fail) in the environment which are accepted; nan if there are none.
    """
    real = np.array([replay.success for replay in replays])
    accepted = verdict.accepted[sample]
    return {
        "imagined": float(len(verdict.success)),
        "success": float(verdict.success.mean()),
        "plausible": float(verdict.plausible.mean()),
        "consistent": float(verdict.consistent.mean()),
        "kept": float(verdict.accepted.mean()),
        "replayed": float(len(real)),
        "replay_success": float(real.mean()),
        "replay_success_kept": _share(real[accepted]),
        "tpr": _share(accepted[real]),
        "fpr": _share(accepted[~real]),
        "state_error": float(np.mean([replay.state_error for replay in replays])),
    }


def _share(values: NDArray[np.bool_]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def quality_gate(method: str, replay_success: float, settings: VerificationSettings) -> None:
    """Refuse to train a policy on imagination that the environment does not confirm.

    Args:
        replay_success: the success of rollouts imagined for training goals.

    Raises:
        UserError: it is less than ``min_replay_success``.
    """
    if replay_success < settings.min_replay_success:
        raise UserError(
            f"imagination ({method}) is not good enough: {replay_success:.0%} of its rollouts for training goals "
            f"succeed in the environment, the floor is {settings.min_replay_success:.0%}.\n"
            "Ground the model longer (--grounding.num_steps) or lower --verification.min_replay_success."
        )
