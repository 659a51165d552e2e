"""Corrections: what the expert does where the model's own doing has led, learnt after the warm start.

A model that has copied the expert meets, as soon as it errs, what no demonstration shows, such as the wrong key in its
hands, and errs on. So it begins some episodes, and the expert ends them; what the expert did is learnt beside its
demonstrations. It is a round of DAgger (Ross et al., "A reduction of imitation learning and structured prediction to
no-regret online learning", AISTATS 2011), in which the expert takes over at a random step instead of commenting on
each (Ross and Bagnell, "Reinforcement and imitation learning via interactive no-regret learning", 2014).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from envs.episodes import Episode
from envs.goals import Goal
from envs.language import LanguageTask
from llm_agents.agents.prompts import PromptRenderer, PromptSettings
from llm_agents.models.language_model import LanguageModel
from llm_agents.rollouts.rollout import ActionOutput, AnyAgent, RunningEpisode, ScriptedAgent, decide
from llm_agents.runtime.streams import stream
from llm_agents.training.loop import Batch, OptimizerSettings
from llm_agents.training.warm_start import SFTDataset, WarmStartData, expert_decisions, with_noise


class DaggerSettings(OptimizerSettings):
    """Supervised learning from episodes that the model begins and the expert ends."""

    renamed: ClassVar[Mapping[str, str]] = {**OptimizerSettings.renamed, "share": "fraction"}

    num_episodes: int = Field(0, ge=0)
    """For training goals; 0 for none. Those that the model ends by itself teach nothing."""
    fraction: float = Field(0.5, gt=0, le=1)
    """Of the batches, those of corrections; the others are as at the end of the warm start."""


class InterventionAgent:
    """A learned agent whose episodes the expert takes over, see `takeover`. The expert watches from the beginning."""

    def __init__(self, agent: AnyAgent, expert: ScriptedAgent) -> None:
        self._agent, self._expert = agent, expert

    def act_in(self, episodes: Sequence[RunningEpisode]) -> list[ActionOutput]:
        suggested = self._expert.act_in(episodes)
        is_over = [
            len(episode.actions) >= takeover(episode.env.task, episode.env.goal, episode.spec.seed)
            for episode in episodes
        ]
        own = [episode for episode, over in zip(episodes, is_over, strict=True) if not over]
        decided = iter(decide(self._agent, own))
        return [
            expert if over else replace(next(decided), turn=None)
            for expert, over in zip(suggested, is_over, strict=True)
        ]


def takeover(task: LanguageTask, goal: Goal, seed: int) -> int:
    """The step at which the expert takes over in the episode with this seed, uniform in the first half of its horizon.

    A function of the seed alone, so that it need not be stored with the episode.
    """
    return int(stream(seed, "dagger/takeover").integers(task.horizon(goal) // 2 + 1))


class DaggerData:
    """Batches of corrections, and between them what comes last in a warm start.

    Args:
        warm_start: the data of the warm start.
        corrections: episodes by a `InterventionAgent`.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: PromptSettings,
        task: LanguageTask,
        warm_start: WarmStartData,
        episodes: Sequence[Episode],
        settings: DaggerSettings,
        goal_noise: float,
        seed: int,
    ) -> None:
        def begin(episode: Episode) -> int:
            return takeover(task, task.goal_set.find(episode.goal_id), episode.seed)

        observations, actions = expert_decisions(task, episodes, begin)
        noisy = with_noise(observations, goal_noise, stream(seed, "dagger/goal_noise"))
        self._corrections = SFTDataset(
            lm, PromptRenderer(lm, prompts), noisy, actions, settings.batch_size, seed, "sft/dagger"
        )
        self._warm_start, self._fraction, self._seed = warm_start, settings.fraction, seed

    def batch(self, step: int) -> Batch:
        """As of `WarmStartData`."""
        wants_correction = stream(self._seed, "dagger/mix", step).random() < self._fraction
        if wants_correction and len(self._corrections):
            return self._corrections.batch(step)
        return self._warm_start.later_batch(step)
