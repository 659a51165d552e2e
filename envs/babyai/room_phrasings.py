"""How the goals of the room are phrased.

Training uses few words: ball, box, key, door; go, walk, move; open; pick up, get; put, place; next to, near. No
`rephrase` phrasing contains a verb, a noun or a relation from the training phrasings of its family, and half of them
avoid their colour words too. Every second phrasing is again a sample of all kinds (new verbs, complaints, fronted
order), so half of them can be held out.
"""

from __future__ import annotations

from itertools import product

from envs.babyai.room_state import Kind

_POLITE = ("{}", "please {}", "can you {}", "i want you to {}", "help me {}", "you have to {}", "try to {}")

_GO = ("go to the {x}", "walk to the {x}", "move to the {x}")
_OPEN = ("open the {d} door", "get the {d} door open", "make the {d} door open")
_PICK_UP = ("pick up the {x}", "get the {x}", "pick the {x} up")
_PUT = ("put the {x} next to the {y}", "place the {x} next to the {y}", "put the {x} near the {y}")

_NEW_NOUNS = {
    "ball": ("sphere", "orb", "globe"),
    "box": ("crate", "chest", "container"),
    "key": ("latchkey", "passkey", "unlocking tool"),
    "door": ("gate", "hatch", "portal"),
}
_NEW_COLOURS = {
    "red": ("crimson", "scarlet"),
    "green": ("emerald", "lime"),
    "blue": ("azure", "navy"),
    "purple": ("violet", "lilac"),
    "yellow": ("golden", "lemon"),
    "grey": ("silver", "ashen"),
}

_GO_NEW = (
    "approach the {x}",
    "head over towards the {x}",
    "stroll up until the {x} is in front of your face",
    "proceed in the direction of the {x} till you reach it",
    "navigate across and stop before the {x}",
    "find your way over, the {x} should be right ahead of you",
    "advance until you stand facing the {x}",
    "travel over and halt at the {x}",
    "pay the {x} a visit",
    "come up close and look at the {x}",
    "why are you still so far from the {x}? get yourself there",
    "i can't stand how distant you are from the {x}",
    "it bothers me that nobody is standing by the {x}",
    "this is the wrong spot, you belong in front of the {x}",
    "the {x} is where you should be",
    "towards the {x} is where your feet must carry you",
    "the {x}, that is your destination",
    "right before the {x}, wait for me there",
    "make the {x} the thing you look at from one step away",
    "the {x} looks lonely, join it",
)
_OPEN_NEW = (
    "unseal the {d}",
    "swing the {d} wide",
    "unbar the {d}",
    "pull the {d} ajar",
    "push the {d} aside so that i can look out",
    "unlatch the {d} for me",
    "clear the way through the {d}",
    "see to it that the {d} no longer blocks the exit",
    "give me passage by way of the {d}",
    "undo the {d}",
    "why is the {d} shut? that has to change",
    "i can't stand that the {d} is shut",
    "it annoys me to see the {d} closed like this",
    "a shut {d} is of no use to anyone, sort it out",
    "the {d}, let some air in through it",
    "the {d} must not remain closed",
    "the {d} is to be unfastened",
    "through the {d} we want to leave, so free it",
    "the {d} ought to stand wide",
    "closed as it is, the {d} needs your hand",
)
_PICK_UP_NEW = (
    "grab the {x}",
    "lift the {x} off the floor",
    "seize the {x}",
    "take hold of the {x}",
    "collect the {x} and keep it with you",
    "snatch the {x}",
    "carry the {x}",
    "raise the {x} from the ground",
    "acquire the {x}",
    "scoop the {x} into your arms",
    "why is the {x} still lying there? hold it",
    "i can't stand the {x} lying on the floor, remove it",
    "it bothers me that the {x} rests on the ground, take it",
    "your hands are empty, they should contain the {x}",
    "the {x} is the thing to hold",
    "the {x} belongs in your hands",
    "the {x}, would you lift it",
    "in your arms i would like to see the {x}",
    "bearing the {x} is your job now",
    "the {x} should leave the ground",
)
_PUT_NEW = (
    "set the {x} down beside the {y}",
    "lay the {x} alongside the {y}",
    "deposit the {x} adjacent to the {y}",
    "bring the {x} over until it touches the {y}",
    "relocate the {x} so that it borders on the {y}",
    "carry the {x} across and leave it by the {y}",
    "transfer the {x} to a spot bordering the {y}",
    "position the {x} side by side with the {y}",
    "unite the {x} with the {y}",
    "make the {x} a neighbour of the {y}",
    "why is the {x} so far from the {y}? bring them together",
    "i can't stand the {x} being away from the {y}, reunite them",
    "it bothers me that a gap lies between the {x} and the {y}, close it with the former",
    "the {x} looks lost without the {y} at its side, fix that",
    "beside the {y} is where the {x} should lie",
    "alongside the {y}, drop the {x}",
    "the {y} wants company: bring it the {x}",
    "adjoining the {y} there is room for the {x}, leave it there",
    "the {x} belongs by the side of the {y}",
    "the {y} should have the {x} as its neighbour",
)


def goto(x: Kind) -> tuple[str, ...]:
    """Return the 21 training phrasings of "face this object from the next cell"."""
    return _say(_GO, x=_plain(x))


def open_door(colour: str) -> tuple[str, ...]:
    """Return the 21 training phrasings of "open the door"."""
    return _say(_OPEN, d=colour)


def pickup(x: Kind) -> tuple[str, ...]:
    """Return the 21 training phrasings of "carry this object"."""
    return _say(_PICK_UP, x=_plain(x))


def putnext(x: Kind, y: Kind) -> tuple[str, ...]:
    """Return the 21 training phrasings of "these two lie next to each other"."""
    return _say(_PUT, x=_plain(x), y=_plain(y))


def goto_rephrase(x: Kind) -> tuple[str, ...]:
    """Return the 20 held-out phrasings of `goto`."""
    return tuple(f.format(x=_renamed(x, i)) for i, f in enumerate(_GO_NEW))


def open_rephrase(colour: str) -> tuple[str, ...]:
    """Return the 20 held-out phrasings of `open_door`."""
    return tuple(f.format(d=_renamed((colour, "door"), i)) for i, f in enumerate(_OPEN_NEW))


def pickup_rephrase(x: Kind) -> tuple[str, ...]:
    """Return the 20 held-out phrasings of `pickup`."""
    return tuple(f.format(x=_renamed(x, i)) for i, f in enumerate(_PICK_UP_NEW))


def putnext_rephrase(x: Kind, y: Kind) -> tuple[str, ...]:
    """Return the 20 held-out phrasings of `putnext`."""
    return tuple(f.format(x=_renamed(x, i), y=_renamed(y, i)) for i, f in enumerate(_PUT_NEW))


def open_then_goto(colour: str, x: Kind) -> tuple[str, ...]:
    """Return eight phrasings of "the door is open, and the agent faces this object"."""
    return _open_then(colour, _plain(x), ("go to", "walk over to", "move up to", "face"))


def open_then_pickup(colour: str, x: Kind) -> tuple[str, ...]:
    """Return eight phrasings of "the door is open, and the agent carries this object"."""
    return _open_then(colour, _plain(x), ("pick up", "get hold of", "lift", "take"))


def wall(side: str) -> tuple[str, ...]:
    """Return twelve phrasings of "stand next to this wall"."""
    frames = ("go to the {} wall", "walk up to the {} wall", "stand next to the {} wall", "move to the {} side",
              "go to the {} edge of the room", "stand at the {} end of the room")  # fmt: skip
    return tuple(p.format(f.format(side)) for f, p in product(frames, ("{}", "please {}")))


CENTRE = tuple(
    polite.format(words)
    for words, polite in product(
        (
            "go to the centre of the room",
            "walk to the middle of the room",
            "stand in the middle",
            "move to the centre",
            "go to where all walls are equally far",
            "stand in the heart of the room",
        ),
        ("{}", "please {}"),
    )
)


def unlock(colour: str) -> tuple[str, ...]:
    """Return eight phrasings of "open the locked door", for which its key must be fetched."""
    frames = (
        "fetch the {c} key and open the locked {c} door",
        "pick up the {c} key, then unlock the {c} door with it",
        "the {c} door is locked: get its key and open it",
        "open the locked {c} door with the {c} key",
        "first get the {c} key, then use it on the {c} door",
        "unlock the {c} door, for which you need the {c} key",
        "bring the {c} key to the {c} door and open the lock",
        "use the {c} key to get the locked {c} door open",
    )
    return tuple(f.format(c=colour) for f in frames)


def line(x: Kind, y: Kind, z: Kind) -> tuple[str, ...]:
    """Return eight phrasings of "these three lie in a row or column without gaps"."""
    frames = (
        "put the {x}, the {y} and the {z} in a line",
        "line up the {x}, the {y} and the {z}",
        "make a row of the {x}, the {y} and the {z}",
        "arrange the {x}, the {y} and the {z} in a straight line without gaps",
        "form a line of three: the {x}, the {y}, the {z}",
        "the {x}, the {y} and the {z} should lie in one row",
        "move things so that the {x}, the {y} and the {z} make a line",
        "get the {x}, the {y} and the {z} lined up",
    )
    return _of_three(frames, x, y, z)


def pile(x: Kind, y: Kind, z: Kind) -> tuple[str, ...]:
    """Return eight phrasings of "these three lie within a block of two by two cells"."""
    frames = (
        "put the {x}, the {y} and the {z} in a pile",
        "gather the {x}, the {y} and the {z} into a pile",
        "make a heap of the {x}, the {y} and the {z}",
        "bring the {x}, the {y} and the {z} tightly together",
        "huddle the {x}, the {y} and the {z} around one corner",
        "the {x}, the {y} and the {z} should lie in one heap",
        "move things so that the {x}, the {y} and the {z} form a cluster",
        "get the {x}, the {y} and the {z} piled up",
    )
    return _of_three(frames, x, y, z)


def _say(frames: tuple[str, ...], **names: str) -> tuple[str, ...]:
    return tuple(polite.format(frame.format(**names)) for frame, polite in product(frames, _POLITE))


def _open_then(colour: str, x: str, verbs: tuple[str, ...]) -> tuple[str, ...]:
    frames = ("open the {d} door, then {v} the {x}", "first open the {d} door and after that {v} the {x}")
    return tuple(f.format(d=colour, v=v, x=x) for f, v in product(frames, verbs))


def _of_three(frames: tuple[str, ...], x: Kind, y: Kind, z: Kind) -> tuple[str, ...]:
    return tuple(f.format(x=_plain(x), y=_plain(y), z=_plain(z)) for f in frames)


def _plain(kind: Kind) -> str:
    return " ".join(kind)


def _renamed(kind: Kind, index: int) -> str:
    """Name the object with a new noun and, in the phrasings 2, 3, 6, 7, ..., with a new colour word as well."""
    colour, noun = kind
    nouns, colours = _NEW_NOUNS[noun], _NEW_COLOURS[colour]
    said = colours[index // 4 % len(colours)] if index % 4 >= 2 else colour
    return f"{said} {nouns[index % len(nouns)]}"
