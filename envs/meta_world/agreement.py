"""How often the predicates agree with the library: ``python -m envs.meta_world.agreement [--episodes 20]``.

Each task is played by its expert, by the expert with noise on its actions and by a random policy, to the end of the
horizon whether or not it succeeds. Both judge every step.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.meta_world.expert import expert_action
from envs.meta_world.predicates import STEPS, achieved
from envs.meta_world.scene import CONTENTS, Play

NOISE = 0.5  # standard deviation of the noise on the expert's actions
POLICIES = ("expert", "noisy expert", "random")


@dataclass(frozen=True)
class Agreement:
    """Both judgements of every step: (episodes, horizon) booleans."""

    ours: NDArray[np.bool_]
    library: NDArray[np.bool_]

    @property
    def steps(self) -> float:
        """The share of steps on which both agree."""
        return float((self.ours == self.library).mean())

    @property
    def success(self) -> float:
        """The share of episodes with a success within the horizon, by the predicates."""
        return float(self.ours.any(1).mean())


def compare(task: str, policy: str, num_episodes: int, horizon: int | None = None) -> Agreement:
    """Judge whole episodes of a policy, one of `POLICIES`; composed tasks get one horizon for each of their steps."""
    horizon = horizon or 100 * len(STEPS[task])
    judged = [_judge(task, policy, seed, horizon) for seed in range(num_episodes)]
    return Agreement(np.array([ours for ours, _ in judged]), np.array([library for _, library in judged]))


def _judge(task: str, policy: str, seed: int, horizon: int) -> tuple[list[bool], list[bool]]:
    rng = np.random.default_rng(seed)
    play = Play(task, rng)
    start = play.state
    ours, library = [], []
    for _ in range(horizon):
        action = _act(task, policy, play.state, rng)
        ours.append(bool(achieved(task, play.step(action), start)))
        library.append(play.library_success(action))
    return ours, library


def _act(task: str, policy: str, state: NDArray, rng: np.random.Generator) -> NDArray[np.float32]:
    if policy == "random":
        return rng.uniform(-1, 1, 4).astype(np.float32)
    noise = NOISE * rng.standard_normal(4) if policy == "noisy expert" else 0.0
    return np.clip(expert_action(task, state) + noise, -1, 1).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Agreement of the predicates with the library, step by step.")
    parser.add_argument("tasks", nargs="*", help="all by default")
    parser.add_argument("--episodes", type=int, default=20, help="of each policy")
    options = parser.parse_args()
    print("| task | " + " | ".join(f"{policy}: agreement, success" for policy in POLICIES) + " |")
    print("|---" * (1 + len(POLICIES)) + "|")
    for task in options.tasks or CONTENTS:
        cells = [compare(task, policy, options.episodes) for policy in POLICIES]
        print(f"| {task} | " + " | ".join(f"{c.steps:.4f}, {c.success:.2f}" for c in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
