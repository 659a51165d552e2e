"""One way to optimize, for every training loop: AdamW, clipping, finite checks, checkpoints, resuming, Ctrl-C."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from llm_agents.runtime.checks import require_finite
from llm_agents.runtime.run import Run
from llm_agents.training.checkpoints import load_training, save_training

CHECKPOINT_SECONDS = 30.0

ParameterGroups = Sequence[Mapping[str, Any]]


class Optimization:
    """Trains a module in place, from the run's checkpoint of that name if there is one.

    What a step draws must depend on its number alone; then a resumed training ends as an uninterrupted one.

    Args:
        module: what is trained.
        groups: its parameters: ``params``, and optionally ``scale``, by which their learning rate is multiplied.
        run: where checkpoints and metrics go.
        name: of the stage, and of its checkpoint.
        weight_decay: decoupled (AdamW; Loshchilov and Hutter, 2019).
        max_grad_norm: gradients are scaled down to this norm.
        betas: of Adam.

    Attributes:
        step: the number of finished steps, whatever the loop calls a step.
    """

    def __init__(
        self,
        module: nn.Module,
        groups: ParameterGroups,
        run: Run,
        name: str,
        weight_decay: float,
        max_grad_norm: float,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.module, self.run, self.name = module, run, name
        self._max_grad_norm = max_grad_norm
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        scaled = [{"params": group["params"], "scale": group.get("scale", 1.0)} for group in groups]
        self._optimizer = torch.optim.AdamW(scaled, betas=betas, weight_decay=weight_decay)
        self.step = load_training(module, self._optimizer, run, name)
        self._last_saved = time.monotonic()
        run.rewind_metrics(name, self.step)

    def set_learning_rate(self, learning_rate: float) -> None:
        """Set the learning rate of all groups, each times its scale."""
        for group in self._optimizer.param_groups:
            group["lr"] = group["scale"] * learning_rate

    def compute_gradients(
        self, losses: Iterable[tuple[Tensor, dict[str, float]]], where: str, batch: Mapping[str, Any] | None = None
    ) -> list[dict[str, float]]:
        """Add up the gradients of the parts of a loss, and scale them down to the largest norm allowed.

        Args:
            losses: scalars, each with metrics; one after the other, so that only one graph is in memory.
            where: for the message if something is not finite.
            batch: saved then, beside the checkpoints.

        Returns:
            The metrics of each part; the last ones have ``optimizer/grad_norm`` too.

        Raises:
            UserError: a loss or the gradient is not finite.
        """
        self._optimizer.zero_grad(set_to_none=True)
        rows = []
        for loss, metrics in losses:
            self._require_finite(loss, "loss", where, batch)
            loss.backward()
            rows.append(metrics)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._max_grad_norm)
        self._require_finite(norm, "gradient", where, batch)
        return [*rows[:-1], {**rows[-1], "optimizer/grad_norm": norm.item()}]

    def apply_gradients(self) -> None:
        """Change the parameters by the gradients that were computed."""
        self._optimizer.step()

    def save(self, finished: bool = False, metadata: Mapping[str, Any] | None = None) -> None:
        """Write a checkpoint of the present step."""
        save_training(self.module, self._optimizer, self.step, self.run, self.name, finished, metadata)
        self._last_saved = time.monotonic()

    def save_if_due(self, metadata: Mapping[str, Any] | None = None, every: float | None = None) -> None:
        """Write a checkpoint if the last one is so many seconds old."""
        if time.monotonic() - self._last_saved > (CHECKPOINT_SECONDS if every is None else every):
            self.save(metadata=metadata)

    @contextmanager
    def saved_on_interrupt(self) -> Iterator[None]:
        """On Ctrl-C write a checkpoint of the last finished step; see `uninterrupted`."""
        try:
            yield
        except KeyboardInterrupt:
            self.save()
            raise

    def _require_finite(self, value: Tensor, what: str, where: str, batch: Mapping[str, Any] | None) -> None:
        if torch.isfinite(value):
            return
        advice = "lower the learning rate, or look at the rewards; the last checkpoint is from before it"
        if batch is not None:
            advice = f"its batch is in checkpoints/{self.name}_bad_batch"
            self._save_bad_batch(batch)
        require_finite(value, f"{what} {where}", advice)

    def _save_bad_batch(self, batch: Mapping[str, Any]) -> None:
        tensors: dict[str, Tensor] = {}
        metadata: dict[str, Any] = {"step": self.step}
        for key, entry in batch.items():
            if isinstance(entry, Tensor):
                tensors[key] = entry
            elif isinstance(entry, tuple) and hasattr(entry, "_asdict"):
                tensors |= {f"{key}.{field}": tensor for field, tensor in entry._asdict().items()}
            else:
                metadata[key] = entry
        self.run.save_checkpoint(f"{self.name}_bad_batch", tensors, metadata)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait for the end of the block, so that no checkpoint holds half a step."""
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


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that are not frozen."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
