"""The four grounding tasks: their data, their losses, and that a model of any architecture learns them."""

from itertools import count

import numpy as np
import pytest
import torch
from helpers.small_models import NAMES, Grounded, MakeModel
from helpers.worlds import BOTH
from pydantic import ValidationError
from torch import Tensor

from kalm.grounding import Grounding, GroundingData, GroundingSettings, TaskFractions
from kalm.specs import training_specs
from kalm.trajectories import Trajectories, Transitions
from kalm.trajectory_lm import TrajectoryLM, read_actions
from llm_agents.runtime.run import Run
from llm_agents.training.checkpoints import load_weights
from llm_agents.training.loop import Batch, OptimizerSettings, fit

TASKS = ("rollout", "dynamics", "consequence", "explanation")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
EVENLY = TaskFractions(rollout=1, dynamics=1, consequence=1, explanation=1)


@pytest.fixture
def data(trajectories: Trajectories, transitions: Transitions) -> GroundingData:
    return GroundingData(trajectories, transitions, GroundingSettings(batch_size=32, fractions=EVENLY), seed=0)


def rows_of(batch: Batch, name: str) -> Batch:
    return {key.split("/")[1]: value for key, value in batch.items() if key.startswith(f"{name}/")}


def equal(batch: Batch, other: Batch) -> bool:
    def same(one, two) -> bool:
        return torch.equal(one, two) if isinstance(one, Tensor) else one == two

    return batch.keys() == other.keys() and all(same(batch[key], other[key]) for key in batch)


# Data


def test_a_batch_is_a_function_of_seed_and_step(data, trajectories, transitions):
    expected = {step: data.batch(step) for step in (3, 0, 17, 8)}
    again = GroundingData(trajectories, transitions, data.settings, seed=0)
    assert all(equal(again.batch(step), expected[step]) for step in sorted(expected))
    assert not equal(expected[0], expected[3])
    other = GroundingData(trajectories, transitions, data.settings, seed=1)
    assert not equal(other.batch(0), expected[0])


@pytest.mark.parametrize("seed", range(20))
def test_a_batch_has_the_size_asked_for_divided_as_asked_for(trajectories, transitions, seed):
    rng = np.random.default_rng(seed)
    fractions = dict(zip(TASKS, rng.choice([0.0, 0.03, 0.26, 0.65, 1.0], 4), strict=True))
    fractions[TASKS[seed % 4]] = 0.5
    asked = GroundingSettings(batch_size=int(rng.integers(8, 300)), fractions=TaskFractions(**fractions))
    batch = GroundingData(trajectories, transitions, asked, seed=0).batch(0)
    sizes = {name: len(batch.get(f"{name}/states", ())) for name in TASKS}
    assert sum(sizes.values()) == asked.batch_size
    for name, size in sizes.items():
        assert abs(size - fractions[name] / sum(fractions.values()) * asked.batch_size) <= 1
        assert size == 0 or fractions[name] > 0


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="one of the tasks must have a share above 0"):
        TaskFractions(rollout=0, dynamics=0, consequence=0, explanation=0)


def test_no_phrasing_of_a_later_split_reaches_any_batch(task, data):
    """Neither from the cases that are collected, nor by way of the data."""
    allowed = {words for goal in task.goals("train") for words in goal.phrasings}
    later = {words for split in ("rephrase", "easy", "hard") for goal in task.goals(split) for words in goal.phrasings}
    assert not allowed & later
    said = {spec.instruction for seed in range(3) for spec in training_specs(task, "real", 3000, seed)}
    batches = [data.batch(step) for step in range(20)] + [data.held_out()]
    said |= {words for batch in batches for name in TASKS for words in rows_of(batch, name).get("instructions", [])}
    assert said <= allowed


def test_rows_are_pieces_of_episodes_with_their_own_instruction(data, trajectories):
    held_out = set(data.held_out()["rollout/instructions"])
    assert held_out
    whole = {(e.states[0].tobytes(), e.states[-1].tobytes(), e.instruction) for e in trajectories.episodes}
    by_instruction = {e.instruction: e for e in trajectories.episodes}
    begins, longest = set(), 0
    for step in range(16):
        batch = data.batch(step)
        for name in ("rollout", "consequence", "explanation"):
            rows = rows_of(batch, name)
            for states, actions, length, words in zip(*rows.values(), strict=True):
                episode = by_instruction[words]
                assert words not in held_out
                places = [t for t in range(len(episode)) if (episode.states[t] == states[0].numpy()).all()]
                assert len(places) == 1
                piece = slice(places[0], places[0] + int(length))
                assert episode.actions[piece].tolist() == actions[:length].tolist()
                assert (episode.states[piece] == states[:length].numpy()).all()
                assert length <= data.settings.max_steps or name == "consequence"
                longest = max(longest, int(length))
                if name == "rollout":
                    begins.add(places[0] > 0)
                elif name == "consequence":
                    assert (states[0].numpy().tobytes(), states[length].numpy().tobytes(), words) in whole
                else:
                    assert places[0] == 0
    assert begins == {True, False}
    assert longest > 2


# Losses


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest, make_model: MakeModel) -> TrajectoryLM:
    return make_model(request.param)


@BOTH
@pytest.mark.parametrize("name", TASKS)
@torch.no_grad()
def test_the_loss_of_a_batch_is_the_mean_over_its_rows(world, model, trajectories, data, name):
    """One row at a time, without padding; nothing that stands in the padding reaches it."""
    task = getattr(Grounding(model, data.settings), name)
    rows = rows_of(data.batch(0), name)
    lengths = torch.ones(len(rows["states"]), dtype=torch.long)
    if name != "dynamics":
        states, actions, lengths = trajectories.window(torch.arange(8), torch.zeros(8, dtype=torch.long), 6)
        assert len(lengths.unique()) > 2, "little is padded: little is tested"
        instructions = [episode.instruction for episode in trajectories.episodes[:8]]
        rows = {"states": states, "actions": actions, "lengths": lengths, "instructions": instructions}
    whole = task(**rows)[0].item()
    losses, weights = [], []
    for index, length in enumerate(lengths.tolist()):
        row = {key: value[index : index + 1] for key, value in rows.items()}
        row |= {"states": row["states"][:, : length + 1], "actions": row["actions"][:, :length]}
        losses.append(task(**row)[0].item())
        tokens = model.lm.tokenize(row["instructions"], end=True)[1].sum().item() if name == "explanation" else 1
        weights.append({"rollout": length, "explanation": tokens}.get(name, 1))
    assert whole == pytest.approx(np.average(losses, weights=weights), rel=1e-4)
    beyond = torch.arange(rows["states"].shape[1]) > lengths[:, None]
    rows["states"] = torch.where(beyond[..., None], 7.0, rows["states"])
    anything, real = world.random_actions(*rows["actions"].shape[:2]), ~beyond[:, 1:]
    anything[real] = rows["actions"][real]
    rows["actions"] = anything
    assert task(**rows)[0].item() == pytest.approx(whole, rel=1e-5)


@BOTH
@torch.no_grad()
def test_a_consequence_may_be_measured_in_deviations_of_the_state(world, make_model, trajectories):
    """By hand, from what the model says of the first state."""
    grounding = Grounding(make_model(), GroundingSettings(consequence_unit="state"))
    rows, whole = torch.arange(6), trajectories.actions.shape[1]
    states, actions, lengths = trajectories.window(rows, torch.zeros(6, dtype=torch.long), whole)
    instructions = [episode.instruction for episode in trajectories.episodes[:6]]
    loss, _ = grounding.consequence(states, actions, lengths, instructions)
    model, one = grounding.model, torch.ones(6, 1, dtype=torch.bool)
    start, end = model.marker("start", 6), model.marker("end", 6)
    text = model.lm.embed_texts(instructions)
    pieces = [model.marker("goal", 6), text, start, (model.embed_states(states[:, :1]), one), end]
    said = model.next_states(states[:, 0], model.read(pieces)[-1][:, 0])
    last = torch.stack([torch.from_numpy(episode.states[-1]) for episode in trajectories.episodes[:6]])
    assert loss.item() == pytest.approx(((said - last) / 2 / model.state_std).square().mean().item(), rel=1e-3)


@torch.no_grad()
def test_the_loss_is_the_sum_over_the_tasks_in_the_batch(make_model, data):
    grounding = Grounding(make_model(), data.settings)
    batch = data.batch(0)
    whole, metrics = grounding.loss(batch)
    parts = [{key: value for key, value in batch.items() if key.startswith(name)} for name in TASKS]
    assert whole.item() == pytest.approx(sum(grounding.loss(part)[0].item() for part in parts), rel=1e-5)
    assert set(metrics) == set().union(*(grounding.loss(part)[1] for part in parts))


@BOTH
@torch.no_grad()
def test_what_comes_later_changes_nothing_that_was_predicted_before(world, model, data):
    """Neither an action nor a change of state is predicted from what they are to predict."""
    batches = (rows_of(data.batch(step), "rollout") for step in count())
    rows = next(rows for rows in batches if rows["actions"].shape[1] >= 3)
    states, actions = rows["states"][:, :4], rows["actions"][:, :3]
    ones = torch.ones(len(states), 7, dtype=torch.bool)

    def read(states: Tensor, actions: Tensor) -> Tensor:
        text = model.lm.embed_texts(rows["instructions"])
        return model.read([text, (model.embed_trajectory(states, actions), ones)])[1]

    before = read(states, actions)
    changed_action = actions.clone()
    changed_action[:, 1] = world.random_actions(len(actions))
    torch.testing.assert_close(read(states, changed_action)[:, :3], before[:, :3], **CLOSE)
    assert (read(states, changed_action)[:, 3] - before[:, 3]).abs().max() > 1e-3
    changed_state = states.clone()
    changed_state[:, 2] += 0.1
    torch.testing.assert_close(read(changed_state, actions)[:, :4], before[:, :4], **CLOSE)
    assert (read(changed_state, actions)[:, 4] - before[:, 4]).abs().max() > 1e-3


@BOTH
@torch.no_grad()
def test_actions_read_together_are_read_as_if_each_were_alone(world, model, transitions):
    states, actions = transitions.states[:5], world.random_actions(5, 7)
    actions[0] = actions[0, 0].clone()  # also where all are the same
    together = read_actions(model, states, actions)
    one = torch.ones(5, 1, dtype=torch.bool)
    for column in range(actions.shape[1]):
        action = actions[:, column : column + 1]
        torch.testing.assert_close(together[:, column], read_actions(model, states, action)[:, 0], **CLOSE)
        embeds = model.embed_trajectory(torch.stack([states, states], 1), action)[:, :2]
        plain = model.read([model.marker("dynamics", 5), (embeds[:, :1], one), (embeds[:, 1:], one)])[2]
        torch.testing.assert_close(together[:, column], plain[:, 0], **CLOSE)


# Learning


@BOTH
def test_a_handful_of_episodes_is_learned_by_heart(grounded: Grounded):
    for name, most in {
        "loss/rollout_action": 0.5,
        "loss/rollout_state": 0.7,
        "loss/dynamics": 0.5,
        "loss/consequence": 0.5,
        "loss/explanation": 0.5,
    }.items():
        assert grounded.after[name] < most * grounded.before[name], name
    assert grounded.after["accuracy/rollout_action"] > 0.5 > grounded.before["accuracy/rollout_action"]


@pytest.mark.parametrize(("name", "lora"), [*((name, False) for name in NAMES), *((name, True) for name in NAMES[1:])])
def test_any_model_is_trained_saved_and_loaded(make_model, data, name, lora, tmp_path):
    run = Run.create(tmp_path / "run", "toy", {})
    grounding = Grounding(make_model(name, lora), data.settings)
    before = {key: value.clone() for key, value in grounding.named_parameters()}
    fit(
        grounding,
        OptimizerSettings(num_steps=2, warmup_fraction=0.0),
        data.batch,
        run,
        "grounding",
        show_progress=False,
    )
    moved = {key for key, value in grounding.named_parameters() if not torch.equal(value, before[key])}
    base = {key for key in before if key.startswith("model.lm.model.") and "lora_" not in key}
    assert moved >= before.keys() - base
    assert bool(moved & base) != lora
    other = Grounding(make_model(name, lora, seed=1), data.settings)
    load_weights(other, run, "grounding")
    with torch.no_grad():
        assert torch.equal(other.loss(data.batch(5))[0], grounding.loss(data.batch(5))[0])
    if lora:
        saved = run.load_checkpoint("grounding")[0]
        assert not any("lm.model." in key and "lora_" not in key for key in saved if key.startswith("weights."))
