import numpy as np
import pytest

from llm_agents.evaluation.statistics import interquartile_mean, over_seeds, paired_difference, success_rate


# Wilson's interval by its formula, as tabulated in Newcombe (1998), table I, method 3, to four digits.
@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0000, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_against_published_values(successes: int, episodes: int, low: float, high: float):
    rate = success_rate(successes, episodes)
    assert rate.value == successes / episodes
    assert (rate.low, rate.high) == pytest.approx((low, high), abs=5e-5)


def test_interquartile_mean_drops_both_quarters():
    assert interquartile_mean([[0, 1, 2, 3], [4, 5, 6, 100]]) == 3.5


def test_the_interval_over_seeds_holds_the_truth():
    """Cases that differ much and are the same for all seeds, which is what a panel is."""
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        chances = rng.beta(0.3, 0.3, size=(1, 100))
        scores = rng.random((5, 100)) < chances
        estimate = over_seeds(scores, seed=trial)
        hits += estimate.low <= 0.5 <= estimate.high
    assert hits >= 92


def test_the_interval_over_seeds_knows_the_luck_of_training():
    lucky = np.concatenate([np.ones((3, 50)), np.zeros((3, 50))])
    estimate = over_seeds(lucky)
    assert estimate.value == 0.5
    assert estimate.high - estimate.low > 0.6


def test_over_seeds_is_reproducible_and_takes_other_statistics():
    scores = np.random.default_rng(0).random((3, 40))
    assert over_seeds(scores, interquartile_mean) == over_seeds(scores, interquartile_mean)
    assert over_seeds(scores, interquartile_mean).value == interquartile_mean(scores)
    assert over_seeds(scores, seed=1) != over_seeds(scores, seed=2)


def test_pairing_sees_a_difference_that_two_intervals_hide():
    rng = np.random.default_rng(0)
    baseline = rng.random(200) < 0.5
    better = baseline | (rng.random(200) < 0.1)
    separate = success_rate(int(better.sum()), 200), success_rate(int(baseline.sum()), 200)
    assert separate[0].low < separate[1].high
    difference = paired_difference(better, baseline)
    assert difference.value == pytest.approx(better.mean() - baseline.mean())
    assert difference.low > 0


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="cannot be paired"):
        paired_difference(np.ones((3, 4)), np.ones(4))
    with pytest.raises(ValueError, match=r"\(seeds, episodes\)"):
        over_seeds(np.ones(4))
    with pytest.raises(ValueError, match=r"\(seeds, episodes\)"):
        over_seeds(np.ones((3, 0)))
