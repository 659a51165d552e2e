"""Ways to rephrase a BabyAI mission, as GLAM tests generalisation (Carta et al., 2023, section 5).

A modifier takes a mission in BabyAI's own words and rewrites it with words that no such mission contains. Invented
words are explained, since only the goal is reworded: observations still use BabyAI's words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

Modifier = Callable[[str], str]

_NOUNS = {"ball": "sphere", "box": "crate", "key": "latchkey", "door": "gate", "object": "item"}
_COLOURS = {
    "red": "vermilion",
    "green": "jade",
    "blue": "cyan",
    "purple": "violet",
    "yellow": "golden",
    "grey": "silver",
}
_ACTIONS = {
    "go to": "approach",
    "pick up": "grab",
    "open": "unclose",
    "put": "deposit",
    "next to": "beside",
    "then": "afterwards",
    "after you": "once you",
}
_INVENTED_NOUNS = {"ball": "xolo", "box": "afze", "key": "dax", "door": "wug", "object": "blicket"}
_INVENTED_COLOURS = {
    "red": "faze",
    "green": "jatu",
    "blue": "croh",
    "purple": "vurst",
    "yellow": "gakul",
    "grey": "sil",
}


def _substitute(words: Mapping[str, str], explain: bool = False) -> Modifier:
    pattern = re.compile(r"\b(" + "|".join(words) + r")\b")

    def modify(mission: str) -> str:
        said = pattern.sub(lambda match: words[match[0]], mission)
        known = dict.fromkeys(pattern.findall(mission)) if explain else {}
        return ", ".join([*(f"{words[word]} means {word}" for word in known), said])

    return modify


def _frame(before: str, after: str = "") -> Modifier:
    return lambda mission: f"{before}{mission}{after}"


MODIFIERS: dict[str, Modifier] = {
    "nouns": _substitute(_NOUNS),
    "colours": _substitute(_COLOURS),
    "actions": _substitute(_ACTIONS),
    "invented_nouns": _substitute(_INVENTED_NOUNS, explain=True),
    "invented_colours": _substitute(_INVENTED_COLOURS, explain=True),
    "wish": _frame("I would like the agent to "),
    "duty": _frame("what must be done here: you have to "),
    "dialogue": _frame("hello robot, are you listening? good! please ", ", thank you"),
}
# Several modifiers at once: with known words, and with invented words.
COMPOSED = ("nouns+colours", "actions+nouns", "colours+actions", "nouns+wish")
INVENTED = ("invented_nouns", "invented_colours+invented_nouns", "actions+invented_nouns")
# Applied where a modifier finds nothing to change, such as colours in "open the door".
_OTHERWISE = "wish"

_MARKS: dict[str, frozenset[str]] = {
    "nouns": frozenset(_NOUNS.values()),
    "colours": frozenset(_COLOURS.values()),
    "actions": frozenset({"approach", "grab", "unclose", "deposit", "beside", "afterwards", "once"}),
    "invented_nouns": frozenset(_INVENTED_NOUNS.values()),
    "invented_colours": frozenset(_INVENTED_COLOURS.values()),
    "wish": frozenset({"like", "agent"}),
    "duty": frozenset({"must", "done", "have"}),
    "dialogue": frozenset({"hello", "robot", "listening", "thank"}),
}


def modify(mission: str, names: str) -> str:
    """Apply modifiers to a mission; several are joined by ``+`` and applied in this order.

    >>> modify("go to the red ball", "nouns+colours")
    'go to the vermilion sphere'
    """
    for name in names.split("+"):
        said = MODIFIERS[name](mission)
        mission = said if said != mission else MODIFIERS[_OTHERWISE](mission)
    return mission


def modifiers_of(instruction: str) -> str:
    """Return the modifiers of an instruction, joined by ``+`` in the order of `MODIFIERS`; none for BabyAI's own words.

    With it, an evaluation can be split by modifier.

    >>> modifiers_of("go to the vermilion sphere")
    'nouns+colours'
    """
    words = set(re.findall(r"\w+", instruction.lower()))
    return "+".join(name for name, marks in _MARKS.items() if marks & words)
