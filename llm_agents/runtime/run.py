"""A run's folder: config, metrics, checkpoints and results, each written so that a kill at any moment loses little.

::

    runs/<name>/
        config.yaml       the resolved config
        metrics.jsonl     one line a logged step
        events/           the same for TensorBoard
        checkpoints/      <name>.safetensors, JSON beside the tensors in its header
        episodes/         one `EpisodeStore` a folder
        evaluation/       <panel hash>.json, and <agent>.json for each agent in the folder of that hash
        commands.jsonl    the commands that worked on the run
        *.json            results of finished stages
        report.html
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.utils.tensorboard import SummaryWriter

from envs.episodes import EpisodeStore
from llm_agents.runtime.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class NotARun(UserError):
    """A folder that holds no run."""


class CorruptCheckpoint(UserError):
    """A checkpoint that is cut short or does not fit."""


class Run:
    """One run's folder. `create` starts one, `open` goes back to one.

    Attributes:
        folder: where everything is.
        recipe: the name of the recipe that made it.
        config: the resolved config as plain data.
    """

    def __init__(self, folder: Path, recipe: str, config: dict[str, Any]) -> None:
        self.folder = folder
        self.recipe = recipe
        self.config = config
        self._writer: SummaryWriter | None = None

    @classmethod
    def create(cls, folder: str | Path, recipe: str, config: dict[str, Any]) -> Run:
        """A new run; an existing one is never overwritten.

        Raises:
            UserError: the folder already holds a run, or cannot be made.
        """
        folder = Path(folder)
        if (folder / "config.yaml").exists():
            raise UserError(f"{folder} already holds a run: continue it with --resume, or choose another --run")
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"run folder {folder} cannot be made: {error.strerror}") from None
        write_atomically(folder / "config.yaml", yaml.safe_dump({"recipe": recipe, **config}, sort_keys=False))
        return cls(folder, recipe, config)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """An existing run.

        Raises:
            NotARun: the folder does not exist or holds no config.yaml.
        """
        folder = Path(folder)
        try:
            config = yaml.safe_load((folder / "config.yaml").read_text())
            recipe = config.pop("recipe")
        except (OSError, AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError):
            raise NotARun(f"{folder} is not a run folder: it has no readable config.yaml") from None
        return cls(folder, recipe, config)

    def episodes(self, name: str) -> EpisodeStore:
        """The store of that name."""
        return EpisodeStore(self.folder / "episodes" / name)

    def record_command(self, arguments: Sequence[str]) -> None:
        """Note a command that works on this run, with the time in UTC."""
        line = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "command": shlex.join(arguments)}
        _append(self.folder / "commands.jsonl", line)

    def commands(self) -> list[dict[str, str]]:
        """The commands that worked on this run, as ``{"time": ..., "command": ...}``, in order."""
        return _read_lines(self.folder / "commands.jsonl")

    def log(self, stage: str, step: int, metrics: dict[str, float]) -> None:
        """Append metrics, named ``<stage>/<metric>``, to metrics.jsonl and to TensorBoard."""
        line = {"stage": stage, "step": step, **{name: float(value) for name, value in metrics.items()}}
        _append(self.folder / "metrics.jsonl", line)
        if self._writer is None:
            self._writer = SummaryWriter(str(self.folder / "events"))
        for name, value in metrics.items():
            self._writer.add_scalar(f"{stage}/{name}", value, step)

    def metrics(self) -> list[dict[str, Any]]:
        """All logged lines; a line that a kill cut short is left out."""
        return _read_lines(self.folder / "metrics.jsonl")

    def rewind_metrics(self, stage: str, step: int) -> None:
        """Forget what this stage logged after ``step``, which a resumed run will log again."""
        path = self.folder / "metrics.jsonl"
        with _locked(path):
            lines = self.metrics()
            kept = [line for line in lines if line["stage"] != stage or line["step"] <= step]
            if len(kept) < len(lines):
                write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept))

    def get_or_compute(self, name: str, make: Callable[[], Any]) -> Any:
        """The JSON value stored as ``<name>.json``; made and stored by the first call.

        Raises:
            UserError: the file is there but is not JSON.
        """
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_atomically(path, json.dumps(make(), indent=1))
        try:
            return json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} cannot be read ({error}); delete it to have it made again") from None

    def has_checkpoint(self, name: str) -> bool:
        return self._checkpoint(name).exists()

    def has_finished(self, name: str) -> bool:
        """Whether the training of that name has come to its end."""
        return self.has_checkpoint(name) and bool(self._read_checkpoint(name, tensors=False)[1].get("finished"))

    def save_checkpoint(self, name: str, tensors: dict[str, torch.Tensor], metadata: dict[str, Any]) -> None:
        """Write tensors and JSON facts as one safetensors file, under a temporary name first."""
        path = self._checkpoint(name)
        path.parent.mkdir(exist_ok=True)
        temporary = path.with_suffix(".tmp")
        tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        save_file(tensors, temporary, {"metadata": json.dumps(metadata)})
        os.replace(temporary, path)

    def load_checkpoint(self, name: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """What `save_checkpoint` wrote.

        Raises:
            CorruptCheckpoint: the file is missing, cut short or not a checkpoint.
        """
        return self._read_checkpoint(name)

    def _read_checkpoint(self, name: str, tensors: bool = True) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        path = self._checkpoint(name)
        if not path.exists():
            raise CorruptCheckpoint(f"there is no checkpoint {path}: train on with --resume to get it")
        try:
            with safe_open(path, "pt") as file:
                metadata = json.loads(file.metadata()["metadata"])
                keys = file.keys() if tensors else ()
                return {key: file.get_tensor(key) for key in keys}, metadata
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise CorruptCheckpoint(f"checkpoint {path} cannot be read ({reason}); delete it to train again") from None

    def _checkpoint(self, name: str) -> Path:
        return self.folder / "checkpoints" / f"{name}.safetensors"


def write_atomically(path: Path, text: str) -> None:
    """Write a file under a temporary name of this process and rename it, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def _append(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON; what a kill cut short before it stays a line of its own."""
    with _locked(path), path.open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        torn = size > 0 and file.read(1) != b"\n"
        file.write(b"\n" * torn + json.dumps(line).encode() + b"\n")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time, so that a rewrite loses nothing that another process appends; no lock on Windows."""
    if fcntl is None:
        yield
        return
    with path.with_name(path.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of JSON; one that a kill cut short is left out."""
    lines = path.read_text(errors="replace").splitlines() if path.exists() else []
    return [line for line in map(_parse_line, lines) if isinstance(line, dict)]


def _parse_line(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
