"""Plans in the BabyAI room, and the expert that follows them."""

import numpy as np
import pytest

pytest.importorskip("minigrid")

from helpers.babyai_rooms import DONE, FAMILIES, TASK, cost, room

from envs.babyai import make_room
from envs.babyai.room_expert import outcome
from envs.babyai.room_paths import FAR, INSIDE, to_face, to_stand
from envs.babyai.room_predicates import LOST, find_scenes
from envs.goals import SPLITS


def test_distances_count_turns_and_steps_and_go_around_what_stands_in_the_way():
    here, there = 8 * 3 + 1, 8 * 3 + 4  # (1, 3) and (4, 3)
    free = INSIDE & ~(1 << there)
    assert to_face(free, 1 << there)[here] == 2  # facing east: two steps
    assert to_face(free, 1 << there)[64 + here] == 3  # facing south: a turn first
    assert to_face(free, 1 << there)[128 + here] == 4
    # Something at (2, 3): north, around it to (4, 2), and south.
    assert to_face(free & ~(1 << 8 * 3 + 2), 1 << there)[here] == 7
    walled = free & ~sum(1 << 8 * y + 2 for y in range(1, 7))
    assert to_face(walled, 1 << there)[here] == FAR
    assert to_stand(free, 1 << 8 * 1 + 1)[here] == 3


def test_a_goal_that_cannot_be_reached_costs_most():
    assert cost("goto/yellow/box", room()) == LOST
    assert cost("open/red", room()) == LOST
    assert cost("unlock/red", room(colour="red", state="locked")) == LOST
    assert cost("goto/red/ball", room(green_box=(2, 1), blue_key=(1, 2))) == LOST


def test_the_experts_model_is_the_environment(played):
    states, actions, following = played
    scenes = list(find_scenes(states))
    for scene, action, real in zip(scenes, actions, find_scenes(following), strict=True):
        if action != DONE:
            assert outcome(scene, int(action)) == real


@pytest.mark.parametrize("key", [key for key in FAMILIES if key[0] != "rephrase"])
def test_the_expert_reaches_every_goal_with_each_action_a_step_nearer(key):
    env, expert = make_room(), TASK.expert()
    goals = FAMILIES[key]
    for seed in range(8):
        goal = goals[(7 * seed) % len(goals)]
        env.reset(seed=seed, options={"goal": goal.id})
        done = False
        while not done:
            before = cost(goal.id, env.state)
            _, reward, terminated, truncated, info = env.step(expert.act([env])[0])
            assert before - cost(goal.id, env.state) >= 1
            assert reward >= 1
            done = terminated or truncated
        assert info["is_success"], (goal.id, seed)


def test_the_expert_recovers_from_random_actions():
    env, expert, rng = make_room(), TASK.expert(), np.random.default_rng(0)
    keys = [key for key in FAMILIES if key[0] != "rephrase"]
    num_reached = 0
    for seed in range(4 * len(keys)):
        goals = FAMILIES[keys[seed % len(keys)]]
        env.reset(seed=seed, options={"goal": goals[seed % len(goals)].id})
        done = False
        while not done:
            action = int(rng.integers(7)) if rng.random() < 0.15 else expert.act([env])[0]
            _, _, terminated, truncated, info = env.step(action)
            done = terminated or truncated
        num_reached += info["is_success"]
    assert num_reached >= 0.95 * 4 * len(keys)


@pytest.mark.parametrize("split", SPLITS)
def test_a_random_policy_reaches_few_goals(split):
    env, rng = make_room(), np.random.default_rng(0)
    families = [goals for key, goals in FAMILIES.items() if key[0] == split]
    num_reached = 0
    for seed in range(40):
        goals = families[seed % len(families)]
        env.reset(seed=seed, options={"goal": goals[rng.integers(len(goals))].id, "split": split})
        done = False
        while not done:
            _, _, terminated, truncated, info = env.step(int(rng.integers(7)))
            done = terminated or truncated
        num_reached += info["is_success"]
    assert num_reached <= 6
