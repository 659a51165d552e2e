"""Rollouts that the language model writes by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from envs.episodes import Episode
from envs.language import LanguageTask
from kalm.judging import GoalPredicates, to_episodes
from kalm.trajectory_lm import TrajectoryLM
from llm_agents.models.padding import concatenate, pad_left
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.settings import Settings
from llm_agents.runtime.streams import torch_generator


class GenerationSettings(Settings):
    """How the language model writes rollouts by itself (``lm_greedy`` and ``lm_sample``)."""

    temperature: float = Field(1.0, gt=0)
    """``lm_sample``: temperature of the action distribution."""
    num_samples: int = Field(4, ge=1)
    """``lm_sample``: rollouts for each goal and start; those that pass verification are kept."""
    max_steps: int = Field(12, ge=1)
    """Length at which a rollout is cut, if the goal's horizon does not cut it before."""
    batch_size: int = Field(256, ge=1)
    """Rollouts written side by side."""


def generate(
    model: TrajectoryLM,
    task: LanguageTask,
    specs: Sequence[EpisodeSpec],
    starts: NDArray,
    settings: GenerationSettings,
    temperature: float,
    seed: int = 0,
    piece_steps: int | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> list[Episode]:
    """Rollouts written by the language model, one a case; it imagines both the actions and the states.

    A rollout ends when ``task.achieved`` holds in the imagined state. In a piece of a rollout the prompt is read once,
    and every further position once.

    Args:
        starts: (N, D), from `start_states`.
        temperature: 0 is greedy.
        piece_steps: after so many steps a rollout goes on as if it began in its present state, as rollouts in training
            do; no longer than the pieces the model was grounded on. By default a rollout is one piece.
        advance: told how many rollouts were written.
    """
    generator = torch_generator(model.device, seed, "imagination/write")
    episodes = []
    for begin in range(0, len(specs), settings.batch_size):
        part = slice(begin, begin + settings.batch_size)
        batch = _Batch(task, specs[part], starts[part], settings.max_steps, piece_steps or settings.max_steps)
        states, actions = _generate(model, batch, temperature, generator)
        episodes += to_episodes(task, specs[part], states, actions)
        advance(len(specs[part]))
    return episodes


class _Batch(NamedTuple):
    """Rollouts to be written side by side."""

    task: LanguageTask
    specs: Sequence[EpisodeSpec]
    starts: NDArray
    max_steps: int
    piece_steps: int


@torch.inference_mode()
def _generate(
    model: TrajectoryLM, batch: _Batch, temperature: float, generator: torch.Generator
) -> tuple[NDArray, NDArray]:
    """States (N, T + 1, D) and actions (N, T, ...) of one batch; rows run on after they have ended."""
    prompt, mask = _prompt(model, batch.specs)
    predicates = GoalPredicates(batch.task, batch.specs, batch.starts)
    state = torch.as_tensor(batch.starts, device=model.device)
    states, actions = [state], []
    for step in range(batch.max_steps):
        if step % batch.piece_steps == 0:
            context = _Context(model, prompt, mask, min(batch.piece_steps, batch.max_steps - step))
        logits = model.action_logits(context.read(model.embed_states(state)))
        action = model.actions.draw(logits, temperature, generator)
        predicted = model.next_states(state, context.read(model.embed_actions(state, action)))
        reached = batch.task.project(predicted.cpu().numpy())
        state = torch.as_tensor(reached, device=model.device)
        states.append(state)
        actions.append(action)
        if predicates.all_achieved(reached):
            break
    return torch.stack(states, 1).cpu().numpy(), torch.stack(actions, 1).cpu().numpy()


def _prompt(model: TrajectoryLM, specs: Sequence[EpisodeSpec]) -> tuple[Tensor, Tensor]:
    """What the rollouts follow, (N, L, H), and its mask (N, L), padded left."""
    count = len(specs)
    texts = model.lm.embed_texts([spec.instruction for spec in specs])
    embeds, mask, _ = concatenate([model.marker("goal", count), texts, model.marker("rollout", count)])
    return pad_left(embeds, mask)


class _Context:
    """What a model has read of some rollouts, with room for a prompt and ``num_steps`` steps."""

    def __init__(self, model: TrajectoryLM, prompt: Tensor, mask: Tensor, num_steps: int) -> None:
        self._lm, self._unread, self._mask = model.lm, prompt, mask
        self._cache = model.lm.make_cache(prompt.shape[1] + 2 * num_steps)

    def read(self, embeds: Tensor) -> Tensor:
        """The hidden states (N, H) at one more position (N, H)."""
        unread = torch.cat([self._unread, embeds[:, None]], 1)
        self._unread = unread[:, :0]
        self._mask = torch.cat([self._mask, torch.ones_like(self._mask[:, :1])], 1)
        return self._lm.hidden_states(unread, self._mask, self._cache)[:, -1]
