"""One training loop for everything that is trained here: a loss over batches that are functions of the step.

Because batch number ``step`` depends only on the seed and ``step``, a resumed run sees the batches that an
uninterrupted one would have seen, and ends with the same weights.
"""

from __future__ import annotations

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol, cast

import torch
from pydantic import Field
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text
from torch import Tensor, nn

from llm_agents.config import Settings
from llm_agents.devices import device_of, to_device
from llm_agents.run import CorruptCheckpoint, Run, UserError

CHECKPOINT_SECONDS = 30.0
LOG_EVERY = 25
POLL_SECONDS = 5.0  # reading all metrics costs a third of a second at the end of a long run

Batch = dict[str, Any]


class Trainable(Protocol):
    """What `fit` trains: an `nn.Module` with a loss."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The scalar loss of a batch and the metrics worth logging."""
        ...


class OptimizerSettings(Settings):
    """AdamW (Loshchilov and Hutter, 2019) with linear warm-up and cosine decay to a tenth."""

    num_steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(64, ge=1)
    """Sequences or transitions in one optimizer step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup_share: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""

    def learning_rate_at(self, step: int) -> float:
        warmup = max(1, round(self.warmup_share * self.num_steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.num_steps - warmup)
        return self.learning_rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * progress)))


def fit(
    module: nn.Module,
    settings: OptimizerSettings,
    make_batch: Callable[[int], Batch],
    run: Run,
    name: str,
    evaluate: Callable[[], dict[str, float]] | None = None,
    after_step: Callable[[], None] | None = None,
    show_progress: bool = True,
) -> None:
    """Train in place, from the run's checkpoint ``name`` if there is one; a finished training is only loaded.

    Args:
        module: an `nn.Module` that is `Trainable`.
        make_batch: the batch of a step; must depend on nothing but the step. Its tensors, wherever they are, go to the
            device of the module.
        run: where checkpoints and metrics go.
        name: the stage, and the checkpoint's name.
        evaluate: held-out metrics, logged ten times and at the end.
        after_step: called after each optimizer step, for target networks.
        show_progress: whether to show a progress bar; see `watch_progress` for a worker's.

    Raises:
        UserError: the loss or its gradient is not finite; the batch is saved beside the checkpoints.
    """
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    step = load_training(module, optimizer, run, name)
    run.rewind_metrics(name, step)
    last_saved = time.monotonic()
    module.train()
    with progress_bar(name, settings.num_steps, step) if show_progress else nullcontext(_ignore) as advance:
        try:
            while step < settings.num_steps:
                metrics = _compute_gradients(module, optimizer, settings, step, make_batch, run, name)
                with _to_the_end():
                    optimizer.step()
                    if after_step is not None:
                        after_step()
                    step += 1
                    advance()
                    last = step == settings.num_steps
                    if step % LOG_EVERY == 0 or last:
                        run.log(name, step, metrics)
                    if evaluate is not None and (step % max(1, settings.num_steps // 10) == 0 or last):
                        module.eval()
                        run.log(name, step, evaluate())
                        module.train()
                    if time.monotonic() - last_saved > CHECKPOINT_SECONDS and not last:
                        save_training(module, optimizer, step, run, name)
                        last_saved = time.monotonic()
        except KeyboardInterrupt:
            save_training(module, optimizer, step, run, name)
            raise
    save_training(module, optimizer, step, run, name, finished=True)
    module.eval()


@contextmanager
def _to_the_end() -> Iterator[None]:
    """Ctrl-C waits for the end of the block, so that no checkpoint holds half a step."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught:
        signal.raise_signal(signal.SIGINT)


def _compute_gradients(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: OptimizerSettings,
    step: int,
    make_batch: Callable[[int], Batch],
    run: Run,
    name: str,
) -> dict[str, float]:
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate_at(step)
    batch = to_device(make_batch(step), device_of(module))
    torch.manual_seed(step)  # so that dropout, too, is a function of the step
    loss, metrics = cast(Trainable, module).loss(batch)
    _require_finite("loss", loss, batch, step, run, name)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], settings.max_grad_norm)
    _require_finite("gradient", norm, batch, step, run, name)
    return {"loss": loss.item(), "grad_norm": norm.item(), **metrics}


def _require_finite(what: str, value: Tensor, batch: Batch, step: int, run: Run, name: str) -> None:
    if torch.isfinite(value):
        return
    tensors: dict[str, Tensor] = {}
    facts: dict[str, Any] = {"step": step}
    for key, entry in batch.items():
        if isinstance(entry, Tensor):
            tensors[key] = entry
        elif isinstance(entry, tuple) and hasattr(entry, "_asdict"):
            tensors |= {f"{key}.{field}": tensor for field, tensor in entry._asdict().items()}
        else:
            facts[key] = entry
    run.save_checkpoint(f"{name}_bad_batch", tensors, facts)
    raise UserError(
        f"{name}: the {what} at step {step} is {value.item()}; its batch is in checkpoints/{name}_bad_batch"
    )


def state_to_save(module: nn.Module) -> dict[str, Tensor]:
    """The state that training changes: all but frozen parameters; target networks, named ``target*``, included.

    Tied weights stand under the first of their names.
    """
    state: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        frozen = isinstance(tensor, nn.Parameter) and not tensor.requires_grad and not name.startswith("target")
        if not frozen and id(tensor) not in seen:
            seen.add(id(tensor))
            state[name] = tensor.detach()
    return state


def load_weights(module: nn.Module, run: Run, name: str) -> None:
    """Load what `fit` trained into a module of the same make.

    Raises:
        CorruptCheckpoint: the checkpoint is missing, cut short or of another shape.
    """
    tensors, _ = run.load_checkpoint(name)
    _load_state(module, tensors, name)
    module.eval()


def save_training(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    run: Run,
    name: str,
    finished: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> None:
    """One checkpoint with weights, optimizer moments, the step, and facts that JSON can hold."""
    tensors = {f"weights.{key}": value for key, value in state_to_save(module).items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{key}": torch.as_tensor(value) for key, value in state.items()}
    run.save_checkpoint(name, tensors, {**(facts or {}), "step": step, "finished": finished})


def load_training(module: nn.Module, optimizer: torch.optim.Optimizer, run: Run, name: str) -> int:
    """Restore what `save_training` wrote and return its step; 0 without a checkpoint."""
    if not run.has_checkpoint(name):
        return 0
    tensors, facts = run.load_checkpoint(name)
    _load_state(module, tensors, name)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, field = key.split(".", 2)
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(facts["step"])


def _load_state(module: nn.Module, tensors: dict[str, Tensor], name: str) -> None:
    weights = {key.removeprefix("weights."): value for key, value in tensors.items() if key.startswith("weights.")}
    expected = state_to_save(module)
    wrong = list(expected.keys() ^ weights.keys())
    wrong += [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    if wrong:
        raise CorruptCheckpoint(f"checkpoint {name!r} does not fit this model: it differs in {sorted(wrong)[0]}")
    module.load_state_dict(weights, strict=False)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights that depend on the seed alone, whatever was drawn before. They are made on the CPU: a GPU draws other
    random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def watch_progress(title: str, run: Run, steps: dict[str, int]) -> Iterator[None]:
    """A progress bar over trainings that go on in other processes, read from what they log.

    Args:
        steps: how many steps each stage will take.
    """
    ended = threading.Event()
    done = dict.fromkeys(steps, 0)

    def watch(advance: Callable[..., None]) -> None:
        while not ended.wait(POLL_SECONDS):
            for line in run.metrics():
                stage, step = line["stage"], line["step"]
                if step > done.get(stage, step):
                    advance(step - done[stage])
                    done[stage] = step

    with progress_bar(title, sum(steps.values())) as advance:
        thread = threading.Thread(target=watch, args=(advance,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            advance(sum(steps.values()) - sum(done.values()) if not sys.exc_info()[0] else 0)


def _ignore(n: int = 1, note: str = "") -> None:
    """Advance no bar."""


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s")


class progress_bar:
    """A progress bar with rate and time left; as a context it gives a function that advances it by ``n`` and may note
    how it goes."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        columns: Sequence = (
            TextColumn(f"{name:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns)
        self._task = self._progress.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> Callable[..., None]:
        self._progress.start()
        return self._advance

    def _advance(self, n: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=n, note=note)

    def __exit__(self, *exception) -> None:
        self._progress.stop()
