"""One training loop for everything that is trained here: a loss over batches that are functions of the step.

Because batch number ``step`` depends only on the seed and ``step``, a resumed run sees the batches that an
uninterrupted one would have seen, and ends with the same weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar, Protocol, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from llm_agents.runtime.devices import device_of, to_device
from llm_agents.runtime.progress import ignore_progress, progress_bar
from llm_agents.runtime.run import Run
from llm_agents.runtime.settings import Settings
from llm_agents.runtime.streams import stream_seed
from llm_agents.training.optimization import Optimization, trained_parameters, uninterrupted

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
    """Fraction of the steps in which the learning rate rises from zero."""
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
        make_batch: makes the batch of a step; must depend on nothing but the step. Its tensors, wherever they are, go
            to the device of the module.
        run: where checkpoints and metrics go.
        name: the stage, and the checkpoint's name.
        evaluate: gives held-out metrics, logged ten times and at the end.
        after_step: called after each optimizer step, for target networks.
        show_progress: whether to show a progress bar; see `watch_progress` for a worker's.

    Raises:
        UserError: the loss or its gradient is not finite; the batch is saved with the checkpoints.
    """
    groups = [{"params": trained_parameters(module)}]
    optimization = Optimization(
        module, groups, run, name, settings.weight_decay, settings.max_grad_norm, betas=(0.9, 0.98)
    )
    module.train()
    bar = progress_bar(name, settings.num_steps, optimization.step) if show_progress else nullcontext(ignore_progress)
    with bar as advance, optimization.saved_on_interrupt():
        while optimization.step < settings.num_steps:
            optimization.set_learning_rate(settings.learning_rate_at(optimization.step))
            metrics = _compute_gradients(optimization, make_batch)
            with uninterrupted():
                optimization.apply_gradients()
                if after_step is not None:
                    after_step()
                optimization.step += 1
                advance()
                _log(optimization, settings.num_steps, metrics, evaluate)
                if optimization.step < settings.num_steps:
                    optimization.save_if_due()
    optimization.save(finished=True)
    module.eval()


def _compute_gradients(optimization: Optimization, make_batch: Callable[[int], Batch]) -> dict[str, float]:
    """The gradients of the next step, and its metrics."""
    step, module = optimization.step, optimization.module
    batch = to_device(make_batch(step), device_of(module))
    torch.manual_seed(stream_seed(0, "training/dropout", step))  # so that dropout, too, is a function of the step
    loss, metrics = cast(Trainable, module).loss(batch)
    where = f"of {optimization.name} at step {step}"
    (row,) = optimization.compute_gradients([(loss, {"loss/total": loss.item(), **metrics})], where, batch)
    return row


def _log(
    optimization: Optimization,
    num_steps: int,
    metrics: dict[str, float],
    evaluate: Callable[[], dict[str, float]] | None,
) -> None:
    """Log what is due after a step."""
    step, module, run = optimization.step, optimization.module, optimization.run
    if step % LOG_EVERY == 0 or step == num_steps:
        run.log(optimization.name, step, metrics)
    if evaluate is not None and (step % max(1, num_steps // 10) == 0 or step == num_steps):
        module.eval()
        run.log(optimization.name, step, evaluate())
        module.train()
