"""Every random stream and every range of start seeds, each under a name of its own.

What a run draws depends on its seed, the stream's name and an index, such as the number of the optimizer step, and on
nothing that was drawn before. So a resumed run draws what an uninterrupted one would have drawn, and no two parts of a
run share numbers by accident.

An episode's start is a number that the environment's reset is given. Starts come from ranges that are disjoint by
construction, whatever the seeds are: agents are never judged on a start that anything was learnt from, nor on one that
a setting was chosen by.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from llm_agents.runtime.errors import UserError

STREAMS = frozenset(
    {
        "associative_recall/goals",
        "associative_recall/parts",
        "collect/goals",
        "corpus/goals",
        "dagger/goal_noise",
        "dagger/goals",
        "dagger/mix",
        "dagger/takeover",
        "demonstrations/goals",
        "encoder/goals",
        "grounding/batch",
        "grounding/transitions",
        "imagination/part",
        "imagination/search",
        "imagination/write",
        "kalm/goals",
        "kalm/replayed",
        "mlp_dynamics/batch",
        "offline/batch",
        "online/goals",
        "online/shuffle",
        "rollout/act",
        "sft/dagger",
        "sft/decisions",
        "sft/goal_questions",
        "sft/part_questions",
        "sft/part_questions_in_place",
        "symbolic_ppo/goals",
        "symbolic_ppo/round",
        "symbolic_ppo/starts",
        "training/dropout",
        "validation/goals",
        "warm_start/goal_noise",
        "warm_start/mix",
        "weights/critic",
        "weights/language_model",
        "weights/mlp_dynamics",
        "weights/policy",
        "weights/scorer",
        "weights/symbolic_ppo",
        "weights/trajectory_lm",
    }
)

# Panels stay where they were when the published results were measured; what is learnt from comes after them.
_PANELS_BEGIN = 10**6
_STARTS_PER_PANEL = 10**5
_TRAINING_BEGINS = 2**48
_MAX_SEED = 2**31
MAX_STARTS = 2**24  # of a range, for each seed
# The position of a name is part of the numbers: add new ones at the end.
START_RANGES = (
    "collect",
    "corpus",
    "demonstrations",
    "dagger",
    "online",
    "symbolic_ppo",
    "real",
    "random_rollouts",
    "gate",
    "rephrase",
    "easy",
    "hard",
    "validation",
)
PANEL = "panel"


def stream(seed: int, name: str, *index: int) -> np.random.Generator:
    """Return the random stream of a name.

    Args:
        seed: of the run, or of the episode for what an agent draws in it.
        name: one of ``STREAMS``.
        index: further numbers that set a stream apart, such as a step or an iteration.

    Raises:
        KeyError: the name is not in ``STREAMS``.
    """
    if name not in STREAMS:
        raise KeyError(f"{name!r} is no stream: add it to STREAMS in {__name__}")
    # Hashed, since numpy takes [1, 2] and [1, 2, 0] for the same seed.
    key = "/".join(map(str, (seed, name, *index)))
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(key.encode(), digest_size=16).digest(), "big"))


def stream_seed(seed: int, name: str, *index: int) -> int:
    """Return one number below 2**31 from a stream, to seed a generator of another library."""
    return int(stream(seed, name, *index).integers(2**31))


def torch_generator(device: torch.device | str, seed: int, name: str, *index: int) -> torch.Generator:
    """Return a stream as a generator of torch on a device; see `stream`."""
    return torch.Generator(device=device).manual_seed(stream_seed(seed, name, *index))


def start_seed(range_name: str, seed: int, index: int) -> int:
    """Return the start of an episode: what the environment's reset is given.

    Args:
        range_name: one of ``START_RANGES``, or ``panel``.
        seed: of the run, or of the panel.
        index: the number of the episode.

    Raises:
        KeyError: there is no such range.
        UserError: the seed or the index is beyond what a range holds.
    """
    if range_name == PANEL:
        most = (_TRAINING_BEGINS - _PANELS_BEGIN) // _STARTS_PER_PANEL
        _require_below("the seed of a panel", seed, most)
        _require_below("the number of episodes of a panel", index, _STARTS_PER_PANEL)
        return _PANELS_BEGIN + seed * _STARTS_PER_PANEL + index
    if range_name not in START_RANGES:
        raise KeyError(range_name)
    _require_below("a seed", seed, _MAX_SEED)
    _require_below(f"the number of episodes to play ({range_name})", index, MAX_STARTS)
    block = START_RANGES.index(range_name) * _MAX_SEED + seed
    return _TRAINING_BEGINS + block * MAX_STARTS + index


def range_of(start: int) -> str:
    """Return the name of the range that a start is from; the empty string for one of nobody's, such as a user's own."""
    if _PANELS_BEGIN <= start < _TRAINING_BEGINS:
        return PANEL
    number = (start - _TRAINING_BEGINS) // (_MAX_SEED * MAX_STARTS)
    return START_RANGES[number] if start >= _TRAINING_BEGINS and number < len(START_RANGES) else ""


@contextmanager
def seeded(seed: int, name: str) -> Iterator[None]:
    """Let new weights come from a stream, whatever was drawn before.

    They are made on the CPU: a GPU draws other random numbers.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(seed, name))
        yield


def _require_below(what: str, number: int, bound: int) -> None:
    if not 0 <= number < bound:
        raise UserError(f"{what} must be at least 0 and below {bound:,}, got {number:,}")
