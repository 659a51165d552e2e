"""The training loop: whatever stops it and wherever, it goes on to the same result."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import CorruptCheckpoint, Run
from llm_agents.training import loop as training
from llm_agents.training.checkpoints import load_weights, state_to_save
from llm_agents.training.loop import OptimizerSettings, fit

STEPS = 60
SETTINGS = OptimizerSettings(num_steps=STEPS, learning_rate=0.05)


class Regression(nn.Module):
    """A small network with all that a resumed run could lose: dropout, a frozen part, a buffer and a target network."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, width), nn.Dropout(0.3), nn.Tanh(), nn.BatchNorm1d(width))
        self.out = nn.Linear(width, 1)
        self.frozen = nn.Linear(3, 1).requires_grad_(False)
        self.target = nn.Linear(width, 1).requires_grad_(False)

    def loss(self, batch: dict) -> tuple[Tensor, dict[str, float]]:
        hidden = self.net(batch["x"])
        prediction = self.out(hidden) + 0.1 * self.target(hidden) + self.frozen(batch["x"])
        loss = (prediction - batch["y"]).square().mean()
        return loss, {"error": loss.item() ** 0.5}

    def after_step(self) -> None:
        with torch.no_grad():
            self.target.weight.lerp_(self.out.weight, 0.1)


def make_batch(step: int) -> dict:
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(step))
    return {"x": x, "y": x.sum(1, keepdim=True), "names": [str(step)]}


def make_module(width: int = 8) -> Regression:
    torch.manual_seed(0)
    return Regression(width)


def train(run: Run, module: Regression, batches: Callable[[int], dict] = make_batch, **arguments) -> Regression:
    arguments = {
        "settings": SETTINGS,
        "after_step": module.after_step,
        "evaluate": lambda: evaluate(module),
    } | arguments
    fit(module, make_batch=batches, run=run, name="regression", show_progress=False, **arguments)
    return module


@torch.no_grad()
def evaluate(module: Regression) -> dict[str, float]:
    return {"held_out": module.loss(make_batch(10**6))[0].item()}


@pytest.fixture
def new_run(tmp_path: Path) -> Callable[[], Run]:
    folders = iter(tmp_path / f"run{number}" for number in range(10**6))
    return lambda: Run.create(next(folders), "toy", {})


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run.create(tmp_path_factory.mktemp("uninterrupted") / "run", "toy", {})
    train(run, make_module())
    return run


def assert_the_same(run: Run, expected: Run) -> None:
    """Weights, buffers, optimizer observations, step and metrics, bit for bit."""
    tensors, metadata = run.load_checkpoint("regression")
    expected_tensors, expected_facts = expected.load_checkpoint("regression")
    assert metadata == expected_facts
    assert tensors.keys() == expected_tensors.keys()
    assert [key for key in tensors if not torch.equal(tensors[key], expected_tensors[key])] == []
    assert run.metrics() == expected.metrics()


# Stopped and resumed


@settings(max_examples=12, deadline=None)
@given(st.lists(st.integers(0, STEPS - 1), min_size=1, max_size=3))
@example([0, 1, STEPS - 1])
def test_an_interrupted_training_resumes_to_the_same_result(tmp_path_factory, uninterrupted, interruptions):
    run = Run.create(tmp_path_factory.mktemp("run") / "run", "toy", {})
    for stop in sorted(interruptions):

        def stops(step: int, stop=stop) -> dict:
            if step == stop:
                raise KeyboardInterrupt
            return make_batch(step)

        with pytest.raises(KeyboardInterrupt):
            train(run, make_module(), stops)
        assert run.load_checkpoint("regression")[1] == {"step": stop, "finished": False}
    train(run, make_module())
    assert_the_same(run, uninterrupted)


@pytest.fixture
def ctrl_c():
    """Ctrl-C raises KeyboardInterrupt, even where the tests run in the background of a shell that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["update", "after_step", "evaluate", "checkpoint"])
def test_ctrl_c_in_the_middle_of_a_step_leaves_no_half_of_it(new_run, uninterrupted, where, monkeypatch, ctrl_c):
    """The weights have been changed, but the step is not counted yet; or the other way round."""
    run, module, calls = new_run(), make_module(), []

    def interrupting(function: Callable) -> Callable:
        def call(*args, **kwargs):
            result = function(*args, **kwargs)
            calls.append(where)
            if len(calls) == 5:
                signal.raise_signal(signal.SIGINT)
            return result

        return call

    changed = {}
    if where == "update":
        monkeypatch.setattr(torch.optim.AdamW, "step", interrupting(torch.optim.AdamW.step))
    elif where == "checkpoint":
        monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
        monkeypatch.setattr(run, "save_checkpoint", interrupting(run.save_checkpoint))
    elif where == "after_step":
        changed["after_step"] = interrupting(module.after_step)
    else:
        changed["evaluate"] = interrupting(lambda: evaluate(module))
    with pytest.raises(KeyboardInterrupt):
        train(run, module, **changed)
    monkeypatch.undo()
    assert 0 < run.load_checkpoint("regression")[1]["step"] < STEPS
    train(Run.open(run.folder), make_module())
    assert_the_same(run, uninterrupted)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


KILLED = """
import sys, time
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
import test_loop as t
from llm_agents.training import loop
loop.CHECKPOINT_SECONDS = 0.0
def slowly(step):
    time.sleep(0.02)
    return t.make_batch(step)
t.train(t.Run.open(sys.argv[1]), t.make_module(), slowly)
"""


def test_a_killed_training_resumes_to_the_same_result(new_run, uninterrupted):
    run = new_run()
    command = [sys.executable, "-c", KILLED, str(run.folder), str(Path(__file__).parent)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    while not run.has_checkpoint("regression"):
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(random.uniform(0, 0.3))  # anywhere, also while it saves
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert 0 < run.load_checkpoint("regression")[1]["step"] < STEPS
    train(run, make_module())
    assert_the_same(run, uninterrupted)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("saved", [0, 12, 25])
def test_what_was_logged_after_the_last_checkpoint_is_not_logged_twice(new_run, uninterrupted, saved, monkeypatch):
    run = new_run()
    for step in (10, 40):
        run.log("another", step, {"loss": 0.0})

    def dies(step: int) -> dict:
        if step == saved:  # the last checkpoint
            monkeypatch.setattr(training, "CHECKPOINT_SECONDS", float("inf"))
        if step == 55:
            raise Killed
        return make_batch(step)

    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(Killed):
        train(run, make_module(), dies)
    assert max(line["step"] for line in run.metrics() if line["stage"] == "regression") > saved
    train(run, make_module())
    assert [line["step"] for line in run.metrics() if line["stage"] == "another"] == [10, 40]
    assert [line for line in run.metrics() if line["stage"] == "regression"] == uninterrupted.metrics()


def test_a_finished_training_is_only_loaded(new_run, uninterrupted):
    run = new_run()
    trained = train(run, make_module())
    assert run.has_finished("regression")

    def never(step: int) -> dict:
        raise AssertionError("a finished training asked for a batch")

    torch.manual_seed(1)
    again = train(run, Regression(), never)
    expected = state_to_save(trained)
    assert all(torch.equal(value, expected[key]) for key, value in state_to_save(again).items())
    assert_the_same(run, uninterrupted)


def test_the_loss_falls(uninterrupted):
    held_out = [line["held_out"] for line in uninterrupted.metrics() if "held_out" in line]
    assert held_out[-1] < held_out[0] / 2


@pytest.mark.parametrize("num_steps", [1, 9, 10, 25, 99])
def test_held_out_metrics_are_logged_some_ten_times_and_at_the_end(new_run, num_steps):
    run = new_run()
    train(run, make_module(), settings=OptimizerSettings(num_steps=num_steps))
    steps = [line["step"] for line in run.metrics() if "held_out" in line]
    assert min(num_steps, 10) <= len(steps) <= 20
    assert steps[-1] == num_steps
    assert [line["step"] for line in run.metrics() if "loss" in line][-1] == num_steps


# What is saved


def test_what_is_loaded_is_what_was_trained(new_run):
    run = new_run()
    trained = train(run, make_module())
    torch.manual_seed(1)
    loaded = Regression()
    frozen = loaded.frozen.weight.clone()
    load_weights(loaded, run, "regression")
    assert not loaded.training
    assert torch.equal(loaded.frozen.weight, frozen)
    loaded.frozen.load_state_dict(trained.frozen.state_dict())
    assert evaluate(loaded) == evaluate(trained)


def test_frozen_weights_are_not_saved_and_targets_are():
    names = {name.split(".")[0] for name in state_to_save(make_module())}
    assert names == {"net", "out", "target"}


class Tied(nn.Module):
    """A causal LM whose output layer is its input embedding, as in GPT-2 and the smaller Qwen models."""

    def __init__(self, freeze: bool) -> None:
        super().__init__()
        self.model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=16))
        self.model.requires_grad_(not freeze)
        self.out = nn.Linear(50, 1)

    def loss(self, batch: dict) -> tuple[Tensor, dict[str, float]]:
        return self.out(self.model(torch.arange(10)[None]).logits).square().mean(), {}


@pytest.mark.parametrize("freeze", [False, True])
def test_tied_weights_are_saved_once_if_they_are_trained(new_run, freeze):
    run = new_run()
    module, other = Tied(freeze), Tied(freeze)
    assert module.model.lm_head.weight is module.model.transformer.wte.weight
    other.model.load_state_dict(module.model.state_dict())
    fit(module, OptimizerSettings(num_steps=2), lambda step: {}, run, "tied", show_progress=False)
    saved = run.load_checkpoint("tied")[0]
    assert sum(value.shape == (50, 8) for key, value in saved.items() if key.startswith("weights")) == (not freeze)
    load_weights(other, run, "tied")
    assert other.model.lm_head.weight is other.model.transformer.wte.weight
    assert torch.equal(other.loss({})[0], module.loss({})[0])


def test_a_checkpoint_of_another_shape_is_refused(new_run):
    run = new_run()
    train(run, make_module())
    for load in (train, lambda run, module: load_weights(module, run, "regression")):
        with pytest.raises(CorruptCheckpoint, match=r"checkpoint 'regression' does not fit .* differs in net\.|out\."):
            load(run, make_module(width=9))
    with pytest.raises(CorruptCheckpoint, match="there is no checkpoint"):
        load_weights(make_module(), run, "another")


# What is not finite


class Text(NamedTuple):
    features: Tensor
    mask: Tensor


class Fragile(nn.Module):
    """Its loss or its gradient is as the batch says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def loss(self, batch: dict) -> tuple[Tensor, dict[str, float]]:
        return (batch["values"] * self.weight).sum() + (self.weight - 1).sum().abs().pow(batch["power"]), {}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("bad", ["loss", "gradient"])
@pytest.mark.parametrize("bad_step", [0, 3, 9])
def test_what_is_not_finite_stops_the_run_with_the_batch_saved(new_run, value, bad, bad_step):
    """The square root has a finite value and an infinite gradient at zero."""
    run, module = new_run(), Fragile()

    def batches(step: int) -> dict:
        module.weight.data.fill_(1.0)
        values = torch.full((2,), value if bad == "loss" and step == bad_step else 0.0)
        power = torch.tensor(0.5 if bad == "gradient" and step == bad_step else 2.0)
        text = Text(torch.full((1, 2, 3), float(step)), torch.ones(1, 2, dtype=torch.bool))
        return {"values": values, "power": power, "names": ["a", "b"], "text": text}

    with pytest.raises(UserError, match=rf"fragile: the {bad} at step {bad_step} is .*checkpoints/fragile_bad_batch"):
        fit(module, OptimizerSettings(num_steps=10), batches, run, "fragile", show_progress=False)
    assert torch.isfinite(module.weight).all()
    tensors, metadata = run.load_checkpoint("fragile_bad_batch")
    expected = batches(bad_step)
    assert torch.equal(tensors["values"].nan_to_num(7.0), expected["values"].nan_to_num(7.0))
    assert torch.equal(tensors["power"], expected["power"])
    assert torch.equal(tensors["text.features"], expected["text"].features)
    assert torch.equal(tensors["text.mask"], expected["text"].mask)
    assert metadata == {"step": bad_step, "names": ["a", "b"]}


# The learning rate


@given(
    num_steps=st.integers(1, 500),
    peak=st.floats(1e-8, 10.0),
    warmup_fraction=st.floats(0, 1),
)
@example(num_steps=1, peak=1.0, warmup_fraction=0.0)
@example(num_steps=1, peak=1.0, warmup_fraction=1.0)
def test_the_learning_rate_rises_to_its_peak_and_falls_to_a_tenth(num_steps, peak, warmup_fraction):
    schedule = OptimizerSettings(num_steps=num_steps, learning_rate=peak, warmup_fraction=warmup_fraction)
    rates = torch.tensor([schedule.learning_rate_at(step) for step in range(num_steps)], dtype=torch.float64) / peak
    assert rates.min() > 0
    assert rates.max() == pytest.approx(1.0)
    top = int(rates.argmax())
    assert (rates[: top + 1].diff() >= -1e-12).all()
    assert (rates[top:].diff() <= 1e-12).all()
    assert (rates[top:] >= 0.1 - 1e-12).all()
    assert top <= max(1, round(warmup_fraction * num_steps))
    if warmup_fraction < 0.5 and num_steps > 100:
        assert rates[-1] < 0.11
