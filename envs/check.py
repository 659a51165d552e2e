"""A checker for environments with goals in words: it says plainly what is wrong and what would be right.

It relies on an environment's interface alone (``reset``, ``step``, ``task``), so `envs.language` can import it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from envs.check_episodes import (
    episodes_end_at_the_horizon,
    episodes_run,
    goals_begin_unreached,
    rewards_are_finite,
    starts_differ,
    starts_repeat,
    unknown_names_are_refused,
)
from envs.check_evidence import Evidence, collect_evidence, told
from envs.check_predicates import (
    achieved_is_vectorised,
    is_valid_start_is_vectorised,
    plausible_is_vectorised,
    real_states_can_exist,
    real_transitions_are_plausible,
    reward_is_vectorised,
    start_may_be_left_out,
    success_is_achieved,
)
from envs.check_words import (
    action_texts_name_actions,
    every_split_has_goals,
    goals_stand_in_one_split,
    nonsense_is_refused,
    phrasings_stand_in_one_split,
    states_are_described,
)


class LanguageEnvError(ValueError):
    """An environment that breaks the contract of `envs.language`; the message lists every problem found."""


def check_language_env(env: Any, num_seeds: int = 20) -> None:
    """Check that an environment keeps the contract of `envs.language.LanguageTask` and `LanguageEnv`.

    It plays ``num_seeds`` episodes of random actions, spread over the families of goals in all splits. It examines
    the goals and their phrasings, the starts, the text observations and actions, and the predicates. Gymnasium's own
    ``check_env`` is the other half of the contract.

    Args:
        env: a `LanguageEnv`, bare or as wrapped by ``gymnasium.make``. It is left in the middle of an episode.
        num_seeds: the number of episodes to play.

    Raises:
        LanguageEnvError: the message lists every problem found.
    """
    if num_seeds < 2:
        raise ValueError(f"num_seeds is {num_seeds}: at least 2 are needed to see whether starts differ")
    env = env.unwrapped
    evidence = collect_evidence(env, num_seeds)
    problems = [problem for check in _CHECKS for problem in _problems(check, evidence)]
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise LanguageEnvError(f"{type(env.task).__name__} has {len(problems)} problem(s):\n{listed}")


def _problems(check: Callable[[Evidence], Iterable[str]], evidence: Evidence) -> list[str]:
    """Return the problems that a check found; an error that stops the check is one too."""
    found = []
    try:
        for problem in check(evidence):
            found.append(problem)
    except Exception as error:
        found.append(f"an error stopped the check of this rule: {check.__doc__} {told(error)}")
    return found


_CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    every_split_has_goals,
    goals_stand_in_one_split,
    phrasings_stand_in_one_split,
    episodes_run,
    goals_begin_unreached,
    starts_repeat,
    starts_differ,
    states_are_described,
    action_texts_name_actions,
    nonsense_is_refused,
    achieved_is_vectorised,
    reward_is_vectorised,
    is_valid_start_is_vectorised,
    plausible_is_vectorised,
    start_may_be_left_out,
    success_is_achieved,
    real_transitions_are_plausible,
    real_states_can_exist,
    rewards_are_finite,
    episodes_end_at_the_horizon,
    unknown_names_are_refused,
)
