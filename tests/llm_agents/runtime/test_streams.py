"""No two parts of a run share random numbers, and no start is both learnt from and judged on."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_agents.runtime import streams
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.streams import MAX_STARTS, PANEL, START_RANGES, STREAMS, range_of, start_seed, stream

ROOT = Path(__file__).parents[3]
NAMES = (PANEL, *START_RANGES)
PLACES = st.tuples(st.sampled_from(NAMES), st.integers(0, 2**31 - 1), st.integers(0, 10**5 - 1))


@given(PLACES, PLACES)
def test_starts_of_different_ranges_seeds_and_episodes_are_different(one, other):
    assert (start_seed(*one) == start_seed(*other)) == (one == other)


@given(PLACES)
def test_a_start_tells_its_range_and_fits_into_what_stores_keep(place):
    assert range_of(start_seed(*place)) == place[0]
    assert 0 <= start_seed(*place) < 2**63


def test_the_ends_of_a_range_do_not_meet_the_next():
    for name, following in pairwise(START_RANGES):
        assert start_seed(name, 2**31 - 1, MAX_STARTS - 1) < start_seed(following, 0, 0)
    assert start_seed(PANEL, 2**31 - 1, 10**5 - 1) < start_seed(START_RANGES[0], 0, 0)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("online", 2**31, 0), "a seed must be at least 0 and below 2,147,483,648"),
        (("online", -1, 0), "a seed must be at least 0"),
        (("real", 0, MAX_STARTS), r"the number of episodes to play \(real\) must be .* below 16,777,216"),
        ((PANEL, 0, 10**5), "the number of episodes of a panel must be at least 0 and below 100,000"),
    ],
)
def test_what_a_range_cannot_hold_is_refused(place, message):
    with pytest.raises(UserError, match=message):
        start_seed(*place)


def test_every_stream_has_numbers_of_its_own():
    places = [
        (seed, name, *index)
        for seed in (0, 1)
        for name in STREAMS
        for index in ((), (0,), (1,), (0, 1), (1, 0), (2**32,), (0, 0))
    ]
    drawn = {tuple(stream(*place).integers(2**62, size=2)) for place in places}
    assert len(drawn) == len(places)
    assert stream(3, "online/goals", 1).random() == stream(3, "online/goals", 1).random()
    with pytest.raises(KeyError, match="is no stream"):
        stream(0, "online/golas")


def test_no_random_numbers_come_from_elsewhere():
    """Outside this module nothing seeds a generator but these few, which no run's seed reaches."""
    allowed = {
        "llm_agents/evaluation/statistics.py",  # the resamples of a bootstrap
        "llm_agents/rollouts/panels.py",  # published panels
        "llm_agents/runtime/streams.py",
    }
    pattern = re.compile(r"default_rng\(|manual_seed\(|random\.seed\(")
    sources = [*(ROOT / "llm_agents").rglob("*.py"), *(ROOT / "kalm").rglob("*.py")]
    found = {str(path.relative_to(ROOT)) for path in sources if pattern.search(path.read_text(encoding="utf-8"))}
    assert found - {"llm_agents/training/loop.py"} == allowed


def test_every_name_is_used_and_once():
    """A name that two places use would be two streams with the same numbers."""
    sources = [*(ROOT / "llm_agents").rglob("*.py"), *(ROOT / "kalm").rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources if path.name != Path(streams.__file__).name)
    uses = {name: len(re.findall(rf'"{re.escape(name)}"', text)) for name in STREAMS}
    by_range = {f"{name}/goals" for name in (*START_RANGES, "collect")}  # made of the range's name in draw_specs
    assert {name: count for name, count in uses.items() if count != 1 and name not in by_range} == {}
