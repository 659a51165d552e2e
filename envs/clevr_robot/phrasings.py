"""How the goals of CLEVR-Robot are phrased.

Training uses few words: ball, push, move, keep and four plain relations. Every `rephrase` phrasing has at least one
word that occurs in no training phrasing, and no phrasing of one split occurs in another. Phrasings of one kind are
adjacent, so every second one is again a sample of all kinds.
"""

from __future__ import annotations

from itertools import product

_TRAIN_RELATIONS = {
    "behind": ("behind", "to the behind of", "in behind of"),
    "left": ("left of", "to the left of", "on the left of"),
    "front": ("in front of", "to the front of", "on the front of"),
    "right": ("right of", "to the right of", "on the right of"),
}
_TRAIN_FRAMES = (
    "push the {a} ball {r} the {b} ball",
    "move the {a} ball {r} the {b} ball",
    "keep the {a} ball {r} the {b} ball",
    "can you push the {a} ball {r} the {b} ball",
    "can you move the {a} ball {r} the {b} ball",
    "can you keep the {a} ball {r} the {b} ball",
    "help me push the {a} ball {r} the {b} ball",
    "help me move the {a} ball {r} the {b} ball",
    "help me keep the {a} ball {r} the {b} ball",
    "please push the {a} ball {r} the {b} ball",
    "please move the {a} ball {r} the {b} ball",
    "the {a} ball is {r} the {b} ball",
    "the {a} ball is pushed {r} the {b} ball",
    "the {a} ball is moved {r} the {b} ball",
    "the {a} ball was moved {r} the {b} ball",
    "is the {a} ball {r} the {b} ball",
    "is there a {a} ball {r} the {b} ball",
    "i want the {a} ball {r} the {b} ball",
)

# The plain relations, in a new frame or with a new verb.
_NEW_FRAMES = (
    "hurl the {a} ball {plain} the {b} one",
    "gently nudge the {a} ball until it rests {plain} the {b} one",
    "shove the {a} sphere {plain} the {b} sphere",
    "relocate the {a} marble {plain} the {b} marble",
    "roll the {a} sphere so that it ends up {plain} the {b} one",
    "would you mind placing the {a} ball {plain} the {b} ball",
    "guide the {a} orb over, i need it {plain} the {b} orb",
    "bring about a scene where the {a} ball sits {plain} the {b} ball",
)
# New relations.
_NEW_RELATIONS = {
    "behind": ("beyond", "farther away than", "at the rear of", "past", "on the far side of", "north of"),
    "left": ("leftward of", "westward of", "on the port side of", "west of", "at the left flank of", "left-hand of"),
    "front": ("ahead of", "nearer than", "before", "on the near side of", "closer to us than", "south of"),
    "right": (
        "rightward of",
        "eastward of",
        "on the starboard side of",
        "east of",
        "at the right flank of",
        "right-hand of",
    ),
}
_OPPOSITE = {"behind": "front", "front": "behind", "left": "right", "right": "left"}
_COMPLAINTS = (
    "i can't stand the {a} ball {opposite} the {b} one, swap their sides",
    "it bothers me that the {a} ball lies {opposite} the {b} ball, reverse that",
    "why on earth is the {a} ball {opposite} the {b} ball? it belongs across from there",
    "the {a} ball looks wrong {opposite} the {b} ball, switch it to the other side",
)
_FRONTED = (
    "{plain} the {b} ball is where the {a} ball should go",
    "{plain} the {b} sphere, that spot is reserved for the {a} one",
    "directly {plain} the {b} ball, put the {a} ball",
    "close {plain} the {b} ball there must appear the {a} one",
)
_PLAIN = {name: phrases[0] for name, phrases in _TRAIN_RELATIONS.items()}


def pair_train(relation: str, a: str, b: str) -> tuple[str, ...]:
    """Return the 54 training phrasings of "ball a stands in this relation to ball b"."""
    return tuple(f.format(a=a, b=b, r=r) for f, r in product(_TRAIN_FRAMES, _TRAIN_RELATIONS[relation]))


def pair_rephrase(relation: str, a: str, b: str) -> tuple[str, ...]:
    """Return the 28 held-out phrasings: new verbs, new relations (in old and new frames), complaints, fronted order."""
    new = _NEW_RELATIONS[relation]
    frames = [
        *_NEW_FRAMES,
        *(f"push the {{a}} ball {r} the {{b}} ball" for r in new),
        *(f"steer the {{a}} sphere {r} the {{b}} sphere" for r in new),
        *_COMPLAINTS,
        *_FRONTED,
    ]
    return tuple(f.format(a=a, b=b, plain=_PLAIN[relation], opposite=_PLAIN[_OPPOSITE[relation]]) for f in frames)


_MOVES = {
    "behind": ("backwards", "away from me", "to the back"),
    "left": ("leftwards", "to the left side", "to my left"),
    "front": ("forwards", "towards me", "to the near side"),
    "right": ("rightwards", "to the right side", "to my right"),
}
_MOVE_FRAMES = (
    "push the {a} ball {m} a bit",
    "move the {a} ball one step {m}",
    "shift the {a} ball {m}",
    "let the {a} ball travel a little {m}",
)


def move(direction: str, a: str) -> tuple[str, ...]:
    """Return twelve phrasings of "displace ball a in this direction"."""
    return tuple(f.format(a=a, m=m) for f, m in product(_MOVE_FRAMES, _MOVES[direction]))


def together(relations: tuple[tuple[str, str, str], ...]) -> tuple[str, ...]:
    """Return six phrasings of several (relation, a, b) that must hold at once."""
    said = [f"the {a} ball {_PLAIN[relation]} the {b} ball" for relation, a, b in relations]
    short = [f"{a} {_PLAIN[relation]} {b}" for relation, a, b in relations]
    return (
        "get " + " and ".join(said),
        "push " + ", and also push ".join(said),
        "make all of this true: " + "; ".join(said),
        "in the end i want " + " while having ".join(said),
        "arrange the balls so that you see " + " and ".join(short),
        "first " + ", then ".join(f"move {s}" for s in said) + ", and keep everything so",
    )


LINE = (
    "arrange all balls in a line from left to right in the order red, blue, green, purple, cyan",
    "line up the five balls: red leftmost, then blue, green, purple and cyan",
    "make a row of red, blue, green, purple and cyan from left to right",
    "sort the balls into a line going right: starting with red, over blue, green and purple, ending with cyan",
    "put the balls in a horizontal row, red first, then blue, green, purple, cyan last",
    "build a chain: red, to its right blue, to its right green, to its right purple, to its right cyan",
    "form a queue that runs rightward: red, blue, green, purple, cyan",
    "the balls should form a line: red at the left end, next blue, green, purple, and cyan at the right end",
)

_GATHER = (
    "gather all balls around the {a} ball",
    "use the {a} ball as the centre and arrange the others close around it",
    "bring every other ball next to the {a} one",
    "make a cluster with the {a} ball in the middle",
    "surround the {a} ball with all the others",
    "crowd the remaining balls about the {a} ball",
    "let the {a} ball be the nucleus of a circle made of the rest",
    "collect the four other balls tightly at the {a} ball",
)


def gather(a: str) -> tuple[str, ...]:
    """Return eight phrasings of "all other balls are close to ball a"."""
    return tuple(f.format(a=a) for f in _GATHER)
