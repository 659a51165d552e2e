"""One training loop for everything that is trained here: a loss over batches that are functions of the step.

Because batch number ``step`` depends only on the seed and ``step``, a resumed run sees the batches that an
uninterrupted one would have seen, and ends with the same weights.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from llm_agents.runtime.config import Settings
from llm_agents.runtime.devices import device_of, to_device
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.progress import _ignore, progress_bar
from llm_agents.runtime.run import Run
from llm_agents.runtime.streams import stream_seed
from llm_agents.training.checkpoints import load_training, save_training

CHECKPOINT_SECONDS = 30.0


LOG_EVERY = 25


Batch = dict[str, Any]


class Trainable(Protocol):
    """What `fit` trains: an `nn.Module` with a loss."""

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The scalar loss of a batch and the metrics worth logging."""
        ...


class OptimizerSettings(Settings):
    """AdamW (Loshchilov and Hutter, 2019) with linear warm-up and cosine decay to a tenth."""

    renamed: ClassVar[Mapping[str, str]] = {"warmup_share": "warmup_fraction"}

    num_steps: int = Field(1000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(64, ge=1)
    """Sequences or transitions in one optimizer step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Peak learning rate."""
    warmup_fraction: float = Field(0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises from zero."""
    weight_decay: float = Field(0.01, ge=0)
    """Decoupled weight decay."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled down to this norm."""

    def learning_rate_at(self, step: int) -> float:
        warmup = max(1, round(self.warmup_fraction * self.num_steps))
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
    torch.manual_seed(stream_seed(0, "training/dropout", step))  # so that dropout, too, is a function of the step
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
    metadata: dict[str, Any] = {"step": step}
    for key, entry in batch.items():
        if isinstance(entry, Tensor):
            tensors[key] = entry
        elif isinstance(entry, tuple) and hasattr(entry, "_asdict"):
            tensors |= {f"{key}.{field}": tensor for field, tensor in entry._asdict().items()}
        else:
            metadata[key] = entry
    run.save_checkpoint(f"{name}_bad_batch", tensors, metadata)
    raise UserError(
        f"{name}: the {what} at step {step} is {value.item()}; its batch is in checkpoints/{name}_bad_batch"
    )
