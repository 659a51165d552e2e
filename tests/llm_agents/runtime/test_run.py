from pathlib import Path

import pytest
import torch

from llm_agents.runtime.checks import require_finite
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.run import CorruptCheckpoint, NotARun, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", "toy", {"seed": 1, "policy": {"num_steps": 3}})


def test_a_run_is_found_again(run: Run):
    again = Run.open(run.folder)
    assert (again.recipe, again.config) == (run.recipe, run.config)


def test_create_refuses_an_existing_run_and_a_bad_folder(run: Run, tmp_path: Path):
    with pytest.raises(UserError, match="already holds a run: continue it with --resume"):
        Run.create(run.folder, "toy", {})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be made"):
        Run.create(tmp_path / "file" / "run", "toy", {})


@pytest.mark.parametrize("text", [None, "", "- a list", "seed: 1", "recipe: ["])
def test_open_refuses_what_is_no_run(tmp_path: Path, text: str | None):
    if text is not None:
        (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(NotARun, match="is not a run folder"):
        Run.open(tmp_path)


def test_checkpoints_come_back(run: Run):
    tensors = {"weight": torch.arange(6.0).reshape(2, 3).T, "step": torch.tensor(7)}
    assert not run.has_checkpoint("policy")
    run.save_checkpoint("policy", tensors, {"step": 7})
    loaded, metadata = run.load_checkpoint("policy")
    assert metadata == {"step": 7}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert [path.name for path in (run.folder / "checkpoints").iterdir()] == ["policy.safetensors"]


@pytest.mark.parametrize("size", [0, 4, 60, -1])
def test_a_truncated_checkpoint_is_named_and_refused(run: Run, size: int):
    run.save_checkpoint("policy", {"weight": torch.ones(100)}, {})
    path = run.folder / "checkpoints" / "policy.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptCheckpoint, match=r"policy\.safetensors cannot be read"):
        run.load_checkpoint("policy")


def test_a_missing_checkpoint_is_named(run: Run):
    with pytest.raises(CorruptCheckpoint, match="there is no checkpoint"):
        run.load_checkpoint("policy")


def test_a_save_that_fails_leaves_the_last_checkpoint(run: Run, monkeypatch: pytest.MonkeyPatch):
    run.save_checkpoint("policy", {"weight": torch.ones(3)}, {"step": 1})

    def full_disk(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("llm_agents.runtime.run.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run.save_checkpoint("policy", {"weight": torch.zeros(3)}, {"step": 2})
    assert run.load_checkpoint("policy")[1] == {"step": 1}


def test_a_half_written_line_of_metrics_is_left_out(run: Run):
    run.log("policy", 1, {"loss": 0.5})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "policy", "st')
    run.log("policy", 2, {"loss": 0.25})
    assert [line["step"] for line in run.metrics()] == [1, 2]


def test_rewinding_forgets_one_stage_after_a_step(run: Run):
    for step in (1, 2, 3):
        run.log("policy", step, {"loss": 0.5})
        run.log("verifier", step, {"loss": 0.5})
    run.rewind_metrics("policy", 1)
    assert [(line["stage"], line["step"]) for line in run.metrics()] == [
        ("policy", 1),
        ("verifier", 1),
        ("verifier", 2),
        ("verifier", 3),
    ]


def test_commands_are_remembered(run: Run):
    run.record_command(["llm-agents", "train", "a file.yaml"])
    assert [line["command"] for line in run.commands()] == ["llm-agents train 'a file.yaml'"]


def test_once_makes_once(run: Run):
    made = []

    def make() -> dict:
        made.append(1)
        return {"rate": 0.5}

    assert run.get_or_compute("summary", make) == run.get_or_compute("summary", make) == {"rate": 0.5}
    assert len(made) == 1


def test_once_stores_nothing_when_making_fails_and_names_a_broken_file(run: Run):
    with pytest.raises(ZeroDivisionError):
        run.get_or_compute("summary", lambda: 1 / 0)
    assert not (run.folder / "summary.json").exists()
    (run.folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json cannot be read"):
        run.get_or_compute("summary", dict)


def test_infinite_values_are_refused():
    assert require_finite(1.5, "loss") == 1.5
    with pytest.raises(UserError, match="the loss is nan"):
        require_finite(float("nan"), "loss")
