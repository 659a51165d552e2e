"""What the results of a run come to: as plain data for its folder and its report, and in two sentences."""

from __future__ import annotations

from collections.abc import Sequence

from llm_agents.evaluation.compare import Comparison
from llm_agents.evaluation.statistics import Estimate

BASELINE, ORACLE = "real", "real+oracle"


def summarize(comparison: Comparison, policies: Sequence[str]) -> dict[str, dict[str, float]]:
    """Compare each policy with imagined data, by column, with the oracle and with real data alone.

    Args:
        policies: the names of all policies.

    Returns:
        The fraction of the oracle's success, and the paired difference from real data alone with the bounds of its
        interval.
    """
    imagined = [name for name in policies if name not in (BASELINE, ORACLE)]
    table: dict[str, dict[str, float]] = {}
    for name in imagined:
        table[f"{name} / oracle"] = comparison.fractions[name]
    for name in imagined:
        row = comparison.differences[name]
        table[f"{name} - real"] = {column: estimate.value for column, estimate in row.items()}
        table[f"{name} - real (low)"] = {column: estimate.low for column, estimate in row.items()}
        table[f"{name} - real (high)"] = {column: estimate.high for column, estimate in row.items()}
    return table


def in_sentences(comparison: Comparison, policies: Sequence[str]) -> str:
    """Say in two sentences what imagination was worth: for unseen goals, and for those of training."""
    imagined = [name for name in policies if name not in (BASELINE, ORACLE)]
    if not imagined:
        return "Nothing was imagined: there is nothing to compare with real data alone."
    best = "real+search" if "real+search" in imagined else imagined[0]
    found, gained = comparison.rates, comparison.differences[best]
    easy, hard, train = (gained[column] for column in ("easy", "hard", "train"))
    return (
        f"On goals that nobody showed, {best} reaches {found[best]['easy'].value:.2f} of the easy ones and "
        f"{found[best]['hard'].value:.2f} of the hard ones, where real data alone reach "
        f"{found[BASELINE]['easy'].value:.2f} and {found[BASELINE]['hard'].value:.2f}: {_verdict(easy)} on easy goals "
        f"({_signed(easy)}) and {_verdict(hard)} on hard ones ({_signed(hard)}).\n"
        f"On training goals the difference is {_signed(train)}, and the oracle, real rollouts for the same unseen "
        f"goals, reaches {found[ORACLE]['easy'].value:.2f} and {found[ORACLE]['hard'].value:.2f}."
    )


def _verdict(difference: Estimate) -> str:
    if difference.low > 0:
        return "a gain"
    return "a loss" if difference.high < 0 else "no difference that can be told from chance"


def _signed(difference: Estimate) -> str:
    return f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"
