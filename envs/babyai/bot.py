"""minigrid's bot for BabyAI as an expert: supervised, and explicit about what it cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from minigrid.utils.baby_ai_bot import BabyAIBot, DisappearedBoxError

from envs.babyai.levels import level_ids
from envs.babyai.text_env import TURN_LEFT, BabyAITextEnv
from envs.language import LanguageEnv

MAX_REVISIONS = 500  # of the plan for one decision; the most in a solved episode of any level was 8
# Levels that the bot cannot solve, and why.
UNSUPPORTED = {
    "BabyAI-KeyInBox-v0": "it never looks for a key inside a box",
    "BabyAI-PutNextS5N2Carrying-v0": "it does not know that it carries something from the start",
    "BabyAI-PutNextS6N3Carrying-v0": "it does not know that it carries something from the start",
    "BabyAI-PutNextS7N4Carrying-v0": "it does not know that it carries something from the start",
    "BabyAI-OpenDoorsOrderN2Debug-v0": "it opens doors in an order that the strict verifier calls a failure",
    "BabyAI-OpenDoorsOrderN4Debug-v0": "it opens doors in an order that the strict verifier calls a failure",
}
# Levels that it solves from most starts. From the others, it revises its plan forever, and the expert raises.
UNRELIABLE = ("BabyAI-UnlockToUnlock-v0",)


class ExpertError(RuntimeError):
    """The bot cannot solve this level, or not from this start."""


def supported_levels() -> list[str]:
    """Return the registered levels that the bot solves from every start."""
    return [level for level in level_ids() if level not in UNSUPPORTED and level not in UNRELIABLE]


class BabyAIExpert:
    """The library's bot, one for each running episode. It replans when an action other than its own was taken.

    Where others act too, an episode can become unsolvable: a box that is opened is gone. The expert then turns in
    place until the episode is truncated.

    Args:
        level_id: the level to solve.

    Raises:
        ExpertError: it cannot solve the level; from ``act``, it cannot solve it from this start.
    """

    def __init__(self, level_id: str) -> None:
        if level_id in UNSUPPORTED:
            raise ExpertError(f"the bot of minigrid cannot solve {level_id}: {UNSUPPORTED[level_id]}")
        self._level_id = level_id
        self._pilots: WeakKeyDictionary[LanguageEnv, _Pilot] = WeakKeyDictionary()

    def act(self, envs: Sequence[LanguageEnv]) -> list[int]:
        return [self._decide(env) for env in envs]

    def _decide(self, env: LanguageEnv) -> int:
        physics = env.env.unwrapped
        assert isinstance(physics, BabyAITextEnv)
        pilot = self._pilots.get(env)
        if pilot is None or not pilot.follows(env):
            pilot = self._pilots[env] = _Pilot(WatchedBot(physics.level), env.start_state)
        try:
            return pilot.decide(physics, env.num_steps)
        except ExpertError as error:
            start = f"from seed {env.seed} for goal {env.goal.id!r}"
            raise ExpertError(f"the bot of minigrid cannot solve {self._level_id} {start}: {error}") from error


@dataclass
class _Pilot:
    """A bot in one episode.

    Attributes:
        start_state: the episode's start state, compared by identity: each reset makes a new one.
        num_steps: the episode's number of steps at the bot's last decision.
        suggested: the action it last chose.
        is_alone: whether every action so far was its own.
    """

    bot: WatchedBot
    start_state: Any
    num_steps: int = -1
    suggested: int | None = None
    is_alone: bool = True

    def follows(self, env: LanguageEnv) -> bool:
        """Return whether the bot has seen every step of the episode up to this one."""
        return self.start_state is env.start_state and self.num_steps == env.num_steps - 1

    def decide(self, physics: BabyAITextEnv, num_steps: int) -> int:
        taken = physics.last_action if self.suggested is not None else None
        self.is_alone &= taken == self.suggested and (self.suggested is not None or num_steps == 0)
        self.num_steps = num_steps
        try:
            self.suggested = self.bot.next_action(taken)
        except ExpertError:
            if self.is_alone:
                raise
            self.suggested = self._decide_afresh(physics)
        return self.suggested

    def _decide_afresh(self, physics: BabyAITextEnv) -> int:
        """Choose an action with a new bot that knows nothing of what others did."""
        self.bot = WatchedBot(physics.level)
        try:
            return self.bot.next_action(None)
        except ExpertError:
            return TURN_LEFT


class WatchedBot(BabyAIBot):
    """A bot that gives up instead of revising its plan forever, and says so instead of failing an assertion."""

    def __init__(self, level: Any) -> None:
        super().__init__(level)
        self.stack: _WatchedStack = _WatchedStack(self.stack)

    def next_action(self, taken: int | None) -> int:
        """Return the action it suggests after ``taken``.

        Raises:
            ExpertError: it does not know how to go on.
        """
        self.stack.num_revisions = 0
        try:
            action = int(self.replan(taken))
        except (AssertionError, AttributeError, IndexError, TypeError, DisappearedBoxError) as error:
            raise ExpertError(f"{type(error).__name__}: {error}") from error
        if action == self.mission.unwrapped.actions.done:
            raise ExpertError("it believes to be done")
        return action


class _WatchedStack(list):
    """A stack of subgoals; the bot reads the last one whenever it revises its plan."""

    num_revisions = 0

    def __getitem__(self, index: Any) -> Any:
        self.num_revisions += 1
        if self.num_revisions > MAX_REVISIONS:
            raise ExpertError(f"it revised its plan {MAX_REVISIONS} times without coming to a decision")
        return super().__getitem__(index)
