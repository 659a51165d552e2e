"""Grounding a language model in an environment: the four tasks of KALM (Pang et al., NeurIPS 2024, section 4.1).

==================== ====================================== ======================================
task                 given                                  to be predicted
==================== ====================================== ======================================
rollout generation   instruction, states and actions so far each action, each change of state
dynamics prediction  state, action                          the change of state
consequence          instruction, first state               the change up to the last state
rollout explanation  states and actions                     the instruction, in words
==================== ====================================== ======================================

Changes are in units of their deviation; the loss is the weighted sum of cross-entropies and squared errors. Actions are
scored as their `ActionSpace` has it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from kalm.trajectories import Trajectories, Transitions
from kalm.trajectory_lm import TrajectoryLM, read_actions
from llm_agents.runtime.settings import Settings
from llm_agents.runtime.streams import stream
from llm_agents.training.loop import Batch, OptimizerSettings

HELD_OUT_FRACTION = 0.02


NUM_HELD_OUT = 512


LENGTH_BLOCK = 8


class TaskFractions(Settings):
    """How a batch is divided among the four tasks; any of them may be 0."""

    rollout: float = Field(0.26, ge=0)
    """Rollout generation."""
    dynamics: float = Field(0.65, ge=0)
    """Dynamics prediction."""
    consequence: float = Field(0.03, ge=0)
    """Consequence prediction."""
    explanation: float = Field(0.06, ge=0)
    """Rollout explanation."""

    @model_validator(mode="after")
    def _one_is_positive(self) -> TaskFractions:
        if not any(self.model_dump().values()):
            raise ValueError("one of the tasks must have a share above 0")
        return self


class GroundingSettings(OptimizerSettings):
    """How the language model is grounded."""

    renamed: ClassVar[Mapping[str, str]] = {**OptimizerSettings.renamed, "shares": "fractions"}

    num_steps: int = Field(4000, ge=1)
    """Optimizer steps."""
    batch_size: int = Field(256, ge=8)
    """Sequences in one optimizer step, all four tasks together."""
    learning_rate: float = Field(2e-3, gt=0)
    """Peak learning rate."""
    fractions: TaskFractions = TaskFractions()
    """How a batch is divided among the tasks."""
    max_steps: int = Field(12, ge=1)
    """Longer rollouts are read, and later written, in pieces of this many steps."""
    action_weight: float = Field(0.5, ge=0)
    """Weight of the action loss against the state loss in rollout generation (KALM: 0.5)."""
    consequence_unit: Literal["step", "state"] = "step"
    """What half the error of a predicted consequence is measured in: the deviation of one step's change, which suits
    rollouts of a few steps; or the deviation of the state, since in a hundred steps a state may change by a hundred
    deviations of one step, and the square of that would drown the other losses."""

    def sizes(self) -> dict[str, int]:
        """The number of sequences of each task in a batch; their sum is ``batch_size``."""
        fractions = self.fractions.model_dump()
        ends = np.round(np.cumsum(list(fractions.values())) / sum(fractions.values()) * self.batch_size).astype(int)
        return dict(zip(fractions, np.diff(ends, prepend=0).tolist(), strict=True))


class Grounding(nn.Module):
    """The four losses over one `TrajectoryLM`."""

    def __init__(self, model: TrajectoryLM, settings: GroundingSettings) -> None:
        super().__init__()
        self.model = model
        self.settings = settings

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """The sum of the tasks' losses; a task without rows adds nothing."""
        losses: list[Tensor] = []
        metrics: dict[str, float] = {}
        for name, task in (
            ("rollout", self.rollout),
            ("dynamics", self.dynamics),
            ("consequence", self.consequence),
            ("explanation", self.explanation),
        ):
            if f"{name}/states" not in batch:
                continue
            rows = {key.split("/")[1]: value for key, value in batch.items() if key.startswith(f"{name}/")}
            loss, task_metrics = task(**rows)
            losses.append(loss)
            metrics |= task_metrics
        return torch.stack(losses).sum(), metrics

    def rollout(
        self, states: Tensor, actions: Tensor, lengths: Tensor, instructions: Sequence[str]
    ) -> tuple[Tensor, dict[str, float]]:
        """Rollout generation: states (N, T + 1, D), actions (N, T, ...), lengths (N,), N instructions."""
        pieces = self.model.read(
            [
                self.model.marker("goal", len(states)),
                self.model.lm.embed_texts(instructions),
                self.model.marker("rollout", len(states)),
                self._trajectory(states, actions, lengths),
            ]
        )
        at_state, at_action = pieces[-1][:, 0:-1:2], pieces[-1][:, 1::2]
        real = torch.arange(actions.shape[1], device=lengths.device) < lengths[:, None]
        logits = self.model.action_logits(at_state[real])
        action_loss = self.model.actions.loss(logits, actions[real])
        state_loss = self._change_loss(at_action[real], states[:, :-1][real], states[:, 1:][real])
        accuracy = self.model.actions.accuracy(logits, actions[real])
        weight = self.settings.action_weight
        return weight * action_loss + (1 - weight) * state_loss, {
            "loss/rollout_action": action_loss.item(),
            "accuracy/rollout_action": accuracy.item(),
            "loss/rollout_state": state_loss.item(),
        }

    def dynamics(self, states: Tensor, actions: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Dynamics prediction from single transitions: states (N, 2, D), actions (N, 1, ...)."""
        hidden = read_actions(self.model, states[:, 0], actions)
        loss = self._change_loss(hidden[:, 0], states[:, 0], states[:, 1])
        return loss, {"loss/dynamics": loss.item()}

    def consequence(
        self, states: Tensor, actions: Tensor, lengths: Tensor, instructions: Sequence[str]
    ) -> tuple[Tensor, dict[str, float]]:
        """Consequence prediction: the change between the first and the last state."""
        batch = len(states)
        one = torch.ones(batch, 1, dtype=torch.bool, device=states.device)
        pieces = self.model.read(
            [
                self.model.marker("goal", batch),
                self.model.lm.embed_texts(instructions),
                self.model.marker("start", batch),
                (self.model.embed_states(states[:, :1]), one),
                self.model.marker("end", batch),
            ]
        )
        last = states[torch.arange(batch, device=lengths.device), lengths]
        loss = self._consequence_loss(pieces[-1][:, -1], states[:, 0], last) / 4  # a rollout's change is several steps'
        return loss, {"loss/consequence": loss.item()}

    def explanation(
        self, states: Tensor, actions: Tensor, lengths: Tensor, instructions: Sequence[str]
    ) -> tuple[Tensor, dict[str, float]]:
        """Rollout explanation: the instruction's tokens after the trajectory."""
        token_ids, token_mask = self.model.lm.tokenize(instructions, end=True)
        embeds = self.model.lm.embed_ids(token_ids)
        pieces = self.model.read(
            [
                self.model.marker("rollout", len(states)),
                self._trajectory(states, actions, lengths),
                self.model.marker("goal", len(states)),
                (embeds, token_mask),
            ]
        )
        before = torch.cat([pieces[-2][:, -1:], pieces[-1][:, :-1]], 1)
        loss = F.cross_entropy(self.model.lm.logits(before[token_mask]), token_ids[token_mask])
        return loss, {"loss/explanation": loss.item()}

    def _trajectory(self, states: Tensor, actions: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(2 * actions.shape[1] + 1, device=lengths.device)
        return self.model.embed_trajectory(states, actions), positions <= 2 * lengths[:, None]

    def _consequence_loss(self, hidden: Tensor, first: Tensor, last: Tensor) -> Tensor:
        if self.settings.consequence_unit == "step":
            return self._change_loss(hidden, first, last)
        return F.mse_loss(self.model.next_states(first, hidden) / self.model.state_std, last / self.model.state_std)

    def _change_loss(self, hidden: Tensor, states: Tensor, next_states: Tensor) -> Tensor:
        target = (next_states - states) / self.model.step_std
        return F.mse_loss(self.model.scaled_change(hidden), target)


class GroundingData:
    """Batches for the four tasks, each a function of the step.

    Args:
        rollouts: goal-directed episodes.
        transitions: single transitions for dynamics prediction, from any episodes.
    """

    def __init__(
        self,
        rollouts: Trajectories,
        transitions: Transitions,
        settings: GroundingSettings,
        seed: int,
    ) -> None:
        self.rollouts, self.settings, self.seed = rollouts, settings, seed
        num_held_out = max(1, round(HELD_OUT_FRACTION * len(rollouts)))
        self._train_rows = np.arange(len(rollouts) - num_held_out)
        self._held_out_rows = np.arange(len(rollouts) - num_held_out, len(rollouts))
        self._transitions = transitions

    def batch(self, step: int) -> Batch:
        """The batch of an optimizer step."""
        batch: Batch = {}
        for number, (name, size) in enumerate(self.settings.sizes().items()):
            if size:
                rows = self._rows(name, size, step, number)
                batch |= {f"{name}/{key}": value for key, value in rows.items()}
        return batch

    def held_out(self) -> Batch:
        """Rollout generation on held-out episodes, whole."""
        rows = self._held_out_rows[:NUM_HELD_OUT]
        pieces = self._piece(rows, np.zeros(len(rows), np.int64), self.settings.max_steps)
        return {f"rollout/{key}": value for key, value in pieces.items()}

    def _rows(self, name: str, size: int, step: int, task: int) -> Batch:
        if name == "dynamics":
            rng = stream(self.seed, "grounding/transitions", step)
            index = torch.from_numpy(rng.integers(len(self._transitions.states), size=size))
            states = torch.stack([self._transitions.states[index], self._transitions.next_states[index]], 1)
            return {"states": states, "actions": self._transitions.actions[index, None]}
        rows, begins = self._of_one_length(name, size, step, task)
        whole = self.rollouts.actions.shape[1]
        return self._piece(rows, begins, whole if name == "consequence" else self.settings.max_steps)

    def _of_one_length(self, name: str, size: int, step: int, task: int) -> tuple[np.ndarray, np.ndarray]:
        """Episodes and the steps from which they are read, of similar length so that little is padded.

        The rows of several steps are drawn together, sorted by length and dealt out again.
        """
        block, place = divmod(step, LENGTH_BLOCK)
        rng = stream(self.seed, "grounding/batch", block, task)
        rows = rng.choice(self._train_rows, size * LENGTH_BLOCK)
        lengths = self.rollouts.lengths[rows].numpy()
        begins = np.zeros(len(rows), np.int64)
        if name == "rollout":
            # Half of the rollouts are read from a later state on: a rollout from there as good as any.
            begins = rng.integers(0, lengths) * (rng.random(len(rows)) < 0.5)
        order = np.argsort(np.minimum(lengths - begins, self.settings.max_steps), kind="stable")
        dealt = order.reshape(LENGTH_BLOCK, size)[rng.permutation(LENGTH_BLOCK)[place]]
        return rows[dealt], begins[dealt]

    def _piece(self, rows: np.ndarray, begins: np.ndarray, max_steps: int) -> Batch:
        states, actions, lengths = self.rollouts.window(torch.from_numpy(rows), torch.from_numpy(begins), max_steps)
        instructions = [self.rollouts.episodes[int(row)].instruction for row in rows]
        return {"states": states, "actions": actions, "lengths": lengths, "instructions": instructions}
