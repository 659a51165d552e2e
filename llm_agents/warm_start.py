"""The warm start of an LLM agent: what a small model learns before any reward, from the expert's episodes.

A model that was never trained is taught to write what is seen, what follows an action and what the expert does, for
training goals only; and, before that, to recall: asked with the beginning of a part of what it sees, such as "You see a
red ball", it answers with the rest, "2 steps left". Whoever is to go to the red ball must look up just that, and a
narrow model learns it in some hundred steps when asked, but not in some thousand from the expert's actions, which say
so little about it (docs/lab_notes.md). It is the associative recall of Arora et al., "Zoology", ICLR 2024.

Every other question is answered where it stands, and those between at the end of the prompt, as an action is. To find
something is one step of attention; to fetch from the end of the prompt what was found for words in the midst of a goal
is a second one, which is not learnt before the first is (docs/lab_notes.md). The last third of the questions are the
goals themselves, such as "put the red ball next to the blue key", answered with where the things are that they name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from envs.episodes import Episode
from envs.language import LanguageTask
from llm_agents.errors import UserError
from llm_agents.language_model import LanguageModel
from llm_agents.prompts import Moment, Narrator, Prompter, PromptSettings
from llm_agents.scoring import action_ids
from llm_agents.training import Batch, OptimizerSettings

GOAL_SHARE = 1 / 3  # of the steps of recall, the last ones, whose questions are the goals
COMMON = 0.5  # share of parts; a word that stands in more of them is no part of a name
LIKE_LENGTHS = 8  # batches that are drawn together, so that each can hold sequences of like length
REPLACED_WORDS = 0.15  # of a goal with noise
MOST_WORDS_AROUND = (6, 2)  # before it, and behind it
LETTERS = np.array(list("abcdefghijklmnopqrstuvwxyz,?!"))
NUM_FOR_NAMES = 2000  # moments to find words of names in
WORD = re.compile(r"\w+")
ENDS_OF_PARTS = re.compile(r"[,.;:\n]+\s*")


class WarmStartSettings(OptimizerSettings):
    """Supervised learning from the expert, before any reward."""

    num_demonstrations: int = Field(0, ge=0)
    """The expert's episodes for training goals; 0 for no warm start."""
    num_recall_steps: int = Field(0, ge=0)
    """So many of the ``num_steps``, the first ones, ask for parts of what is seen instead of the expert's actions: two
    thirds for any part, then, where goals name what is seen, one third for what a goal names."""
    goal_noise: float = Field(0.0, ge=0, le=1)
    """In this share of the expert's decisions, words that nobody knows stand in place of some of the goal's, and around
    it: so that an unknown word in a goal costs what it would have said, and no more."""
    text_weight: float = Field(0.1, ge=0)
    """Weight of a token that the environment wrote, what is seen and what follows an action, beside one of the
    expert's actions, or of an answer."""

    @model_validator(mode="after")
    def _leaves_steps_for_actions(self) -> WarmStartSettings:
        if self.num_demonstrations and self.num_recall_steps >= self.num_steps:
            raise ValueError(
                f"num_recall_steps ({self.num_recall_steps}) must be less than num_steps ({self.num_steps}), which "
                "counts them: nothing would be learnt of the expert's actions"
            )
        return self


class WarmStart(nn.Module):
    """Next-token prediction over prompts and the expert's actions."""

    def __init__(self, lm: LanguageModel, text_weight: float) -> None:
        super().__init__()
        self.lm = lm
        self._text_weight = text_weight

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, float]]:
        """``-sum w log p(token | before) / sum w``, w 1 for tokens of actions and answers, else ``text_weight``."""
        token_ids, mask, chosen = batch["token_ids"], batch["mask"], batch["chosen"]
        hidden = self.lm.hidden_states(self.lm.embed_ids(token_ids), mask)
        row, column = (mask[:, 1:] if self._text_weight else chosen[:, 1:]).nonzero(as_tuple=True)
        logits = self.lm.logits(hidden[row, column]).float()
        losses = nn.functional.cross_entropy(logits, token_ids[row, column + 1], reduction="none")
        of_action = chosen[row, column + 1]
        weights = torch.where(of_action, 1.0, self._text_weight)
        metrics = {"action_token": losses[of_action].mean().item()}
        if self._text_weight:
            metrics["text_token"] = losses[~of_action].mean().item()
        return (weights * losses).sum() / weights.sum(), metrics


class WarmStartData:
    """What is learnt at each step of a warm start: first to recall, then to act.

    Raises:
        UserError: recall is asked for, and nothing that is seen has parts of which one could be asked for.
    """

    def __init__(
        self,
        lm: LanguageModel,
        prompts: PromptSettings,
        task: LanguageTask,
        episodes: Sequence[Episode],
        settings: WarmStartSettings,
        seed: int,
    ) -> None:
        narrator, prompter = Narrator(prompts), Prompter(lm, prompts)
        moments: list[Moment] = []
        actions: list[str] = []
        for episode in (episode for episode in episodes if episode.success):
            moments += narrator.of_episode(task, episode)[:-1]
            steps = zip(episode.states[:-1], episode.actions, strict=True)
            actions += [narrator.action_in_words(task, state, action) for state, action in steps]

        def examples(prompter: Prompter, moments: Sequence[Moment], answers: Sequence[str]) -> Examples:
            return Examples(lm, prompter, moments, answers, settings.batch_size, seed)

        self._decisions = examples(prompter, with_noise(moments, settings.goal_noise, seed), actions)
        self._num_recall_steps = settings.num_recall_steps
        if settings.num_recall_steps:
            count = settings.num_recall_steps * settings.batch_size
            of_parts, of_goals = draw_questions(lm, moments, count, seed), draw_goal_questions(moments, count, seed)
            in_place = Prompter(lm, _up_to_the_goal(prompts))
            self._part_questions = [examples(place, *of_parts) for place in (in_place, prompter)]
            self._goal_questions = examples(prompter, *of_goals)

    def batch(self, step: int) -> Batch:
        """Token ids (B, L), their mask, and which belong to an answer or an action."""
        return self._source(step).batch(step)

    def _source(self, step: int) -> Examples:
        if step >= self._num_recall_steps:
            return self._decisions
        if step >= (1 - GOAL_SHARE) * self._num_recall_steps and len(self._goal_questions):
            return self._goal_questions
        return self._part_questions[step % 2]


class Examples:
    """Prompts with what is to be said to them, as token sequences, in batches that are functions of the step."""

    def __init__(
        self,
        lm: LanguageModel,
        prompter: Prompter,
        moments: Sequence[Moment],
        answers: Sequence[str],
        batch_size: int,
        seed: int,
    ) -> None:
        self._lm, self._batch_size, self._seed = lm, batch_size, seed
        end = lm.tokenizer.eos_token_id
        ids = {text: [*action_ids(lm, text), end] for text in dict.fromkeys(answers)}
        self._answers = [ids[text] for text in answers]
        self._prompts = prompter.prompts(moments, room=max(map(len, ids.values()), default=0))
        self._lengths = np.array([len(prompt) for prompt in self._prompts])

    def __len__(self) -> int:
        return len(self._prompts)

    def batch(self, step: int) -> Batch:
        """Examples of like length: token ids (B, L), their mask, and which belong to what is to be said."""
        block, place = divmod(step, LIKE_LENGTHS)
        rng = np.random.default_rng([self._seed, block])
        drawn = rng.integers(len(self), size=LIKE_LENGTHS * self._batch_size)
        drawn = drawn[np.argsort(self._lengths[drawn], kind="stable")].reshape(LIKE_LENGTHS, self._batch_size)
        index = drawn[rng.permutation(LIKE_LENGTHS)[place]]
        token_ids, mask = self._lm.pad([[*self._prompts[i], *self._answers[i]] for i in index])
        begins = torch.from_numpy(self._lengths[index])[:, None].to(mask.device)
        chosen = mask & (torch.arange(mask.shape[1], device=mask.device) >= begins)
        return {"token_ids": token_ids, "mask": mask, "chosen": chosen}


def _up_to_the_goal(prompts: PromptSettings) -> PromptSettings:
    """Prompts that stop behind the goal, if it stands last."""
    if prompts.goal_place != "last":
        return prompts
    before, goal, _ = prompts.goal_line.partition("{goal}")
    return prompts.model_copy(update={"goal_line": before + goal, "ending": ""})


def with_noise(moments: Sequence[Moment], share: float, seed: int) -> list[Moment]:
    """The moments, with words that nobody knows in the goals of this share of them; the same for the same seed."""
    rng = np.random.default_rng([seed, 10])
    return [
        replace(moment, goal=_add_noise(moment.goal, rng)) if rng.random() < share else moment for moment in moments
    ]


def _add_noise(goal: str, rng: np.random.Generator) -> str:
    words = [_unknown_word(rng) if rng.random() < REPLACED_WORDS else word for word in goal.split(" ")]
    before, after = ([_unknown_word(rng) for _ in range(rng.integers(most + 1))] for most in MOST_WORDS_AROUND)
    return " ".join([*before, *words, *after])


def _unknown_word(rng: np.random.Generator) -> str:
    return "".join(rng.choice(LETTERS, size=rng.integers(2, 8)))


Question = tuple[Moment, str]


def draw_questions(
    lm: LanguageModel, moments: Sequence[Moment], count: int, seed: int
) -> tuple[list[Moment], list[str]]:
    """At most ``count`` moments whose goal is to say how a part of the observation goes on, and how each does.

    Raises:
        UserError: there is no moment of which that could be asked.
    """
    rng = np.random.default_rng([seed, 9])
    cuts: dict[str, int] = {}

    def ask(moment: Moment) -> Question | None:
        questions = list(_questions(lm, moment.observation, cuts))
        if not questions:
            return None
        beginning, rest = questions[rng.integers(len(questions))]
        return replace(moment, goal=beginning), rest

    asked, answers = _draw(moments, count, rng, ask)
    if not asked:
        raise UserError("no observation has parts to be asked for: set warm_start.num_recall_steps to 0")
    return asked, answers


def draw_goal_questions(moments: Sequence[Moment], count: int, seed: int) -> tuple[list[Moment], list[str]]:
    """At most ``count`` moments whose goals name what is seen, and how those parts go on, in the goal's order.

    A part's name is made of its words that goals have too, without those that most parts have: "put the red ball next
    to the blue key" names "You see a red ball 2 steps left", which goes on with "2 steps left". Who has the same name
    as another is not asked for. None is drawn where no goal names anything.
    """
    rng = np.random.default_rng([seed, 12])
    sample = [moments[i] for i in rng.permutation(len(moments))[:NUM_FOR_NAMES]]
    parts = [set(_words(part)) for moment in sample for part in _parts(moment.observation)]
    counts = Counter(word for words in parts for word in words)
    naming = {word for m in sample for word in _words(m.goal) if counts[word] <= COMMON * len(parts)}

    def ask(moment: Moment) -> Question | None:
        rests: dict[str, list[str]] = {}
        for part in _parts(moment.observation):
            words = [word for word in WORD.finditer(part) if word.group().lower() in naming]
            if words:
                name = " ".join(word.group().lower() for word in words)
                rests.setdefault(name, []).append(part[words[-1].end() :].strip())
        goal = f" {' '.join(_words(moment.goal))} "
        named = sorted((goal.find(f" {name} "), rest[0]) for name, rest in rests.items() if len(rest) == 1 and rest[0])
        answer = ", ".join(rest for place, rest in named if place >= 0)
        return (moment, answer) if answer else None

    return _draw(moments, count, rng, ask)


def _draw(
    moments: Sequence[Moment], count: int, rng: np.random.Generator, ask: Callable[[Moment], Question | None]
) -> tuple[list[Moment], list[str]]:
    """Ask of moments in random order until there are enough questions."""
    asked = (ask(moments[index]) for index in rng.permutation(len(moments)))
    questions = list(islice((question for question in asked if question is not None), count))
    return [moment for moment, _ in questions], [answer for _, answer in questions]


def _questions(lm: LanguageModel, observation: str, cuts: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Beginnings that one part of the observation has and no other, each with how it goes on.

    Args:
        cuts: where a part is cut, to be remembered.
    """
    parts = _parts(observation)
    for part in parts if len(parts) > 1 else ():
        if part not in cuts:
            cuts[part] = _last_cut(lm, part)
        beginning, rest = part[: cuts[part]], part[cuts[part] :].strip()
        if beginning and sum(other.startswith(beginning) for other in parts) == 1:
            yield beginning, rest


def _parts(observation: str) -> list[str]:
    return [part for part in ENDS_OF_PARTS.split(observation) if part]


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _last_cut(lm: LanguageModel, part: str) -> int:
    """Where the last token begins that also begins a word; 0 where there is none behind the first.

    Words that are one token are then neither asked for nor asked with in pieces that the model knows from nowhere.
    """
    encoding = lm.tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
    begins = {begin for begin, _ in encoding["offset_mapping"]}
    spaces = [match for match in re.finditer(r"(?<=\S)\s", part) if {match.start(), match.end()} & begins]
    return spaces[-1].start() if spaces else 0
