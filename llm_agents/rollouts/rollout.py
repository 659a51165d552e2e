"""Agents in environments: from specs to episodes.

A learned agent sees records (`AgentObservation`). Only a scripted one may look at the environments themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envs.episodes import Episode, Turn
from envs.language import InvalidAction, LanguageEnv
from llm_agents.rollouts.observation import ActionWords, AgentObservation, PastStep
from llm_agents.rollouts.specs import EpisodeSpec
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.streams import stream

RANDOM = "random"


@dataclass(frozen=True)
class OnInvalid:
    """What follows where an agent names no action.

    Attributes:
        action: the text of an action that is taken instead; ``random`` draws an admissible one.
        ends_episode: whether the episode ends after it.
    """

    action: str = RANDOM
    ends_episode: bool = False


@dataclass(frozen=True)
class ActionOutput:
    """What an agent decided: an action in the environment's own form, or the text of one.

    Attributes:
        action: in the environment's form; None where ``text`` says it.
        text: the action in words, which the task's parser reads; None for none.
        turn: for an LLM agent, what led to the action.
        on_invalid: what follows where there is neither, or the text names no action; None if that cannot be.
    """

    action: Any = None
    text: str | None = None
    turn: Turn | None = None
    on_invalid: OnInvalid | None = None


@dataclass
class RunningEpisode:
    """An episode in progress, for scripted agents and for the loop that plays it.

    Attributes:
        env: the environment, already reset.
        index: the number of the spec in what is played.
        spec: what is played.
        rng: randomness of this episode alone, so that results do not depend on what runs alongside.
        words: of the task's actions.
        texts, states: the observations so far, in words and as numbers.
        actions, outputs, rewards: what was done so far, what the agent decided, and what it got.
    """

    env: LanguageEnv
    index: int
    spec: EpisodeSpec
    rng: np.random.Generator
    words: ActionWords
    texts: list[str]
    states: list[NDArray]
    actions: list = field(default_factory=list)
    outputs: list[ActionOutput] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    _past: list[PastStep] = field(default_factory=list)
    _admissible: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def instruction(self) -> str:
        return self.env.instruction

    @property
    def text(self) -> str:
        return self.texts[-1]

    @property
    def state(self) -> NDArray:
        return self.states[-1]

    def observe(self) -> AgentObservation:
        """Return all that a learned agent may look at."""
        self._admissible += [self.words.admissible(state) for state in self.states[len(self._admissible) :]]
        self._past += [self._past_step(step) for step in range(len(self._past), len(self.actions))]
        return AgentObservation(
            instruction=self.instruction,
            text=self.text,
            actions=self._admissible[-1],
            past=tuple(self._past),
            invalid=bool(self.outputs) and self.outputs[-1].turn is not None and self.outputs[-1].turn.invalid,
            state=self.state,
            randomness=self.rng,
        )

    def _past_step(self, step: int) -> PastStep:
        admissible, output = self._admissible[step], self.outputs[step]
        # Where actions have no words, what was written stands for what was done, even if it named nothing.
        name = self.words.name(admissible, self.actions[step]) if admissible else output.text
        return PastStep(self.texts[step], admissible, name, output.turn)


class Agent(Protocol):
    """Acts on a batch of observations. Acting and learning are separate: an agent has no optimizer."""

    def act(self, observations: Sequence[AgentObservation]) -> Sequence[ActionOutput]:
        """Decide once for each observation."""
        ...


@runtime_checkable
class ScriptedAgent(Protocol):
    """Acts on a batch of running episodes, and may look at their environments. No learned agent may."""

    def act_in(self, episodes: Sequence[RunningEpisode]) -> Sequence[ActionOutput]:
        """Decide once for each episode."""
        ...


@runtime_checkable
class StateValues(Protocol):
    """An agent that knows what return to expect."""

    def values(self, observations: Sequence[AgentObservation]) -> Sequence[float]:
        """Return the value of each observation."""
        ...


AnyAgent = Agent | ScriptedAgent


def decide(agent: AnyAgent, episodes: Sequence[RunningEpisode]) -> Sequence[ActionOutput]:
    """Let an agent decide once for each episode."""
    if not episodes:
        return []
    if isinstance(agent, ScriptedAgent):
        return agent.act_in(episodes)
    return agent.act([episode.observe() for episode in episodes])


def rollout(
    agent: AnyAgent, make_env: Callable[[], LanguageEnv], specs: Sequence[EpisodeSpec], num_envs: int = 64
) -> list[Episode]:
    """Play the specs and return their episodes, in the order of the specs; see `iter_rollouts`."""
    numbered = dict(iter_rollouts(agent, make_env, specs, num_envs))
    return [numbered[index] for index in range(len(specs))]


def iter_rollouts(
    agent: AnyAgent,
    make_env: Callable[[], LanguageEnv],
    specs: Sequence[EpisodeSpec],
    num_envs: int = 64,
    streams: Sequence[int] | None = None,
    value_ends: bool = False,
) -> Iterator[tuple[int, Episode]]:
    """Play the specs and yield each episode as it ends, with the index of its spec.

    An environment whose episode has ended takes the next spec at once. The episode of a spec does not depend on the
    others.

    Args:
        agent: decides for all running episodes in one call.
        make_env: makes one environment; at most ``num_envs`` are made.
        specs: what to play.
        num_envs: how many episodes run in parallel.
        streams: the number of each spec's random stream, so that an agent does not act alike where a spec is played
            again; without it, all have the same.
        value_ends: note the agent's value of the state in which an episode was truncated.

    Raises:
        UserError: ``num_envs`` is less than one, or an agent names no action where it must.
    """
    if num_envs < 1:
        raise UserError(f"the number of environments must be at least 1, got {num_envs}")
    keys = [[]] * len(specs) if streams is None else [[number] for number in streams]
    waiting = ((index, spec, key) for index, (spec, key) in enumerate(zip(specs, keys, strict=True)))
    envs = [make_env() for _ in range(min(num_envs, len(specs)))]
    words = ActionWords(envs[0].task) if envs else None
    try:
        running = [_start(env, words, *numbered) for env, numbered in zip(envs, waiting, strict=False)]
        while running:
            endings = [_step(*pair) for pair in zip(running, decide(agent, running), strict=True)]
            last_values = _last_values(agent, running, endings) if value_ends else {}
            following = []
            for episode, ending in zip(running, endings, strict=True):
                if ending is None:
                    following.append(episode)
                    continue
                yield episode.index, _finish(episode, ending, last_values.get(episode.index))
                if (numbered := next(waiting, None)) is not None:
                    following.append(_start(episode.env, words, *numbered))
            running = following
    finally:
        for env in envs:
            env.close()


def random_action(env: LanguageEnv, rng: np.random.Generator) -> Any:
    """Draw an action uniformly from the action space."""
    env.action_space.seed(int(rng.integers(2**31)))
    return env.action_space.sample()


@dataclass(frozen=True)
class _Ending:
    terminated: bool
    truncated: bool
    success: bool


def _start(
    env: LanguageEnv, words: ActionWords | None, index: int, spec: EpisodeSpec, key: Sequence[int]
) -> RunningEpisode:
    options = {"goal": spec.goal_id, "split": spec.split, "instruction": spec.instruction}
    observation, _ = env.reset(seed=spec.seed, options=options)
    rng = stream(spec.seed, "rollout/act", *key)
    words = words or ActionWords(env.task)
    return RunningEpisode(env, index, spec, rng, words, [observation["text"]], [observation["state"]])


def _step(episode: RunningEpisode, output: ActionOutput) -> _Ending | None:
    """Do what was decided; how the episode ended if that ended it."""
    action, output, ends = _resolve(episode, output)
    observation, reward, terminated, truncated, info = episode.env.step(action)
    episode.texts.append(observation["text"])
    episode.states.append(observation["state"])
    episode.actions.append(action)
    episode.outputs.append(output)
    episode.rewards.append(reward)
    terminated = terminated or ends
    return _Ending(terminated, truncated, info["is_success"]) if terminated or truncated else None


def _resolve(episode: RunningEpisode, output: ActionOutput) -> tuple[Any, ActionOutput, bool]:
    """The action in the environment's form, the output with its turn marked if it names none, and whether that ends
    the episode."""
    if output.text is None and output.action is not None:
        return output.action, output, False
    if output.text is not None:
        try:
            return episode.env.task.parse_action(output.text), output, False
        except InvalidAction:
            if output.on_invalid is None:
                raise
    if output.on_invalid is None:
        raise UserError("an agent named no action, and did not say what to do then")
    turn = None if output.turn is None else replace(output.turn, invalid=True)
    action = _stand_in(episode, output.on_invalid.action)
    return action, replace(output, turn=turn), output.on_invalid.ends_episode


def _stand_in(episode: RunningEpisode, name: str) -> Any:
    """The action that is taken where none was named."""
    task, admissible = episode.env.task, episode.words.admissible(episode.state)
    if name == RANDOM and not admissible:
        return random_action(episode.env, episode.rng)
    if name == RANDOM:
        return task.parse_action(admissible[episode.rng.integers(len(admissible))])
    if admissible and name not in admissible:
        raise UserError(f"invalid_action is {name!r}, which is not admissible: {', '.join(admissible)} are")
    return task.parse_action(name)


def _last_values(
    agent: AnyAgent, running: Sequence[RunningEpisode], endings: Sequence[_Ending | None]
) -> dict[int, float]:
    """The values of the last states of episodes that were truncated, by the episode's index."""
    cut = [e for e, ending in zip(running, endings, strict=True) if ending is not None and ending.truncated]
    if not cut or not isinstance(agent, StateValues):
        return {}
    values = agent.values([episode.observe() for episode in cut])
    return {episode.index: float(value) for episode, value in zip(cut, values, strict=True)}


def _finish(episode: RunningEpisode, ending: _Ending, last_value: float | None) -> Episode:
    return Episode(
        goal_id=episode.env.goal.id,
        family=episode.env.goal.family,
        split=episode.spec.split,
        instruction=episode.instruction,
        states=np.stack(episode.states),
        actions=np.asarray(episode.actions),
        rewards=np.asarray(episode.rewards, np.float32),
        terminated=ending.terminated,
        truncated=ending.truncated,
        success=ending.success,
        source="env",
        seed=episode.spec.seed,
        turns=tuple(output.turn for output in episode.outputs if output.turn is not None),
        last_value=last_value,
    )
