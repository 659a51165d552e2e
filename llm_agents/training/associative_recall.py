"""Questions about what is seen, from which a small model learns to find what a goal names.

Asked with the beginning of a part of what it sees, such as "You see a red ball", the model answers with the rest, "2
steps left". Whoever is to go to the red ball must look up just that, and a narrow model learns it in some hundred steps
when asked, but not in some thousand from the expert's actions, which say so little about it (docs/lab_notes.md). It is
the associative recall of Arora et al., "Zoology", ICLR 2024.

Questions are answered where they stand, or at the end of the prompt, as an action is. To find something is one step of
attention; to fetch from the end of the prompt what was found for words in the midst of a goal is a second one, which is
not learnt before the first is. The goals themselves are questions too: "put the red ball next to the blue key" is
answered with where the things are that it names.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from llm_agents.agents.prompts import PromptSettings
from llm_agents.models.language_model import LanguageModel
from llm_agents.rollouts.observation import AgentObservation
from llm_agents.runtime.errors import UserError
from llm_agents.runtime.streams import stream

COMMON = 0.5  # share of parts; a word that stands in more of them is no part of a name


NUM_FOR_NAMES = 2000  # observations to find words of names in


WORD = re.compile(r"\w+")


ENDS_OF_PARTS = re.compile(r"[,.;:\n]+\s*")


Question = tuple[AgentObservation, str]  # with its answer


def up_to_the_goal(prompts: PromptSettings) -> PromptSettings:
    """Prompts that stop behind the goal, if it stands last, so that a question is answered where it stands."""
    if prompts.goal_place != "last":
        return prompts
    before, goal, _ = prompts.goal_line.partition("{goal}")
    return prompts.model_copy(update={"goal_line": before + goal, "ending": ""})


def ask_for_parts(
    lm: LanguageModel, observations: Sequence[AgentObservation], count: int, seed: int
) -> tuple[list[AgentObservation], list[str]]:
    """At most ``count`` observations whose goal is to say how a part of the observation goes on, and how each does.

    Raises:
        UserError: there is no observation of which that could be asked.
    """
    rng = stream(seed, "associative_recall/parts")
    cuts: dict[str, int] = {}

    def ask(observation: AgentObservation) -> Question | None:
        questions = list(_questions(lm, observation.text, cuts))
        if not questions:
            return None
        beginning, rest = questions[rng.integers(len(questions))]
        return replace(observation, instruction=beginning), rest

    asked, answers = _draw(observations, count, rng, ask)
    if not asked:
        raise UserError("no observation has parts to be asked for: set warm_start.num_associative_recall_steps to 0")
    return asked, answers


def ask_for_goals(
    observations: Sequence[AgentObservation], count: int, seed: int
) -> tuple[list[AgentObservation], list[str]]:
    """At most ``count`` observations whose goals name what is seen, and how those parts go on, in the goal's order.

    A part's name is made of its words that goals have too, without those that most parts have: "put the red ball next
    to the blue key" names "You see a red ball 2 steps left", which goes on with "2 steps left". Of parts with
    the same name none is asked for. No question is drawn where no goal names anything.
    """
    rng = stream(seed, "associative_recall/goals")
    sample = [observations[i] for i in rng.permutation(len(observations))[:NUM_FOR_NAMES]]
    parts = [set(_words(part)) for observation in sample for part in _parts(observation.text)]
    counts = Counter(word for words in parts for word in words)
    naming = {word for m in sample for word in _words(m.instruction) if counts[word] <= COMMON * len(parts)}

    def ask(observation: AgentObservation) -> Question | None:
        rests: dict[str, list[str]] = {}
        for part in _parts(observation.text):
            words = [word for word in WORD.finditer(part) if word.group().lower() in naming]
            if words:
                name = " ".join(word.group().lower() for word in words)
                rests.setdefault(name, []).append(part[words[-1].end() :].strip())
        goal = f" {' '.join(_words(observation.instruction))} "
        named = sorted((goal.find(f" {name} "), rest[0]) for name, rest in rests.items() if len(rest) == 1 and rest[0])
        answer = ", ".join(rest for place, rest in named if place >= 0)
        return (observation, answer) if answer else None

    return _draw(observations, count, rng, ask)


def _draw(
    observations: Sequence[AgentObservation],
    count: int,
    rng: np.random.Generator,
    ask: Callable[[AgentObservation], Question | None],
) -> tuple[list[AgentObservation], list[str]]:
    """Ask of observations in random order until there are enough questions."""
    asked = (ask(observations[index]) for index in rng.permutation(len(observations)))
    questions = list(islice((question for question in asked if question is not None), count))
    return [observation for observation, _ in questions], [answer for _, answer in questions]


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
