"""What is remembered, what is recalled, and in which words."""

import numpy as np
import pytest
from helpers.extras import NEEDS_ENCODER
from hypothesis import given, settings
from hypothesis import strategies as st

from envs.clevr_robot.task import ClevrRobotTask
from llm_agents.agents.memory import (
    Experience,
    MemorySettings,
    TextualMemory,
    encoder_similarity,
    in_words,
    word_overlap,
)
from llm_agents.models.text_encoder import TextEncoder

RED_LEFT, BLUE_LEFT = "put the red ball left of the blue ball", "put the blue ball left of the red ball"
OPEN = "open the door"


def success(goal: str, *actions: str) -> Experience:
    return Experience(goal, actions, success=True)


def failure(goal: str, *actions: str) -> Experience:
    return Experience(goal, actions, success=False)


def make_memory(*experiences: Experience, **settings) -> TextualMemory:
    memory = TextualMemory(MemorySettings(**settings), word_overlap)
    memory.add(experiences)
    return memory


def test_the_most_similar_goals_are_recalled_in_their_order():
    memory = make_memory(success(OPEN, "toggle"), success(BLUE_LEFT, "a"), success(RED_LEFT, "b"), num_retrieved=3)
    recalled = memory.retrieve(RED_LEFT)
    assert recalled == [in_words(success(RED_LEFT, "b")), in_words(success(BLUE_LEFT, "a"))]  # doors are too far off


def test_what_was_recalled_changes_when_something_is_added():
    memory = make_memory()
    assert memory.retrieve(OPEN) == []
    memory.add([success(OPEN, "toggle")])
    assert memory.retrieve(OPEN) == [in_words(success(OPEN, "toggle"))]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        (failure(OPEN, "a"), success(OPEN, "b", "c"), 1),
        (success(OPEN, "b", "c"), failure(OPEN, "a"), 0),
        (failure(OPEN, "a"), failure(OPEN, "b", "c"), 1),
        (success(OPEN, "a"), success(OPEN, "b", "c"), 0),
        (success(OPEN, "b", "c"), success(OPEN, "a"), 1),
    ],
)
def test_of_a_goal_the_shortest_success_is_kept_or_the_last_failure(first, second, kept):
    assert make_memory(first, second).experiences == [(first, second)[kept]]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30), st.integers(1, 5))
def test_the_goal_touched_longest_ago_is_forgotten_first(added, capacity):
    memory = make_memory(*(Experience(str(n), ("a",), ok) for n, ok in added), capacity=capacity)
    latest = list(dict.fromkeys(str(n) for n, _ in reversed(added)))[:capacity]
    assert [experience.goal for experience in memory.experiences] == latest[::-1]
    assert len(memory) == len(latest)


def test_a_memory_is_restored_from_its_experiences():
    memory = make_memory(success(OPEN, "a"), failure(RED_LEFT, "b"), success(BLUE_LEFT, "c"))
    again = make_memory(*memory.experiences)
    assert again.experiences == memory.experiences


def test_failures_come_with_a_lesson():
    words = in_words(failure(OPEN, "turn left", "turn left", "toggle", "turn left"))
    assert words == (
        "'open the door' was not reached in 4 steps by: turn left (2 times), toggle, turn left. "
        "3 of them were 'turn left': do something else more often."
    )


def test_long_episodes_are_remembered_by_their_end():
    words = in_words(success(OPEN, *(str(n) for n in range(50))))
    assert words == "'open the door' was reached by: ..., 42, 43, 44, 45, 46, 47, 48, 49."


# Similarity


def test_words_tell_swapped_arguments_apart():
    same, swapped, other = word_overlap(RED_LEFT, [RED_LEFT, BLUE_LEFT, OPEN])
    assert same == 1
    assert swapped < 0.75
    assert other < 0.2


@settings(deadline=None)
@given(st.text(), st.text())
def test_overlap_is_symmetric_and_a_share(one, other):
    (there,), (back,) = word_overlap(one, [other]), word_overlap(other, [one])
    assert there == back
    assert 0 <= there <= 1


@NEEDS_ENCODER
def test_the_encoder_knows_synonyms_where_words_do_not():
    goal, synonym = "pick up the box", "grab the crate"
    encoder = encoder_similarity(TextEncoder.load())
    unrelated = "turn off the lamp"
    near, far = encoder(goal, [synonym, unrelated])
    assert near > far + 0.1
    assert np.diff(word_overlap(goal, [synonym, unrelated])) == pytest.approx(0, abs=0.05)
    assert len(encoder(goal, [])) == 0


def test_other_phrasings_of_a_goal_are_nearer_than_other_goals():
    goals = ClevrRobotTask().goals("train")[:20]
    asked = [goal.phrasings[0] for goal in goals]
    stored = [goal.phrasings[1] for goal in goals]
    nearest = [int(np.argmax(word_overlap(words, stored))) for words in asked]
    assert nearest == list(range(20))
