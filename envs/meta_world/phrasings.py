"""How the tasks of Meta-World are phrased: twenty phrasings for each task in each of its splits.

A phrasing is one of five phrases in one of four frames. Every `rephrase` phrasing has at least one word that occurs in
no training phrasing, and no phrasing of one split occurs in another.
"""

from __future__ import annotations

from typing import TypeAlias

from envs.goals import Split

Phrases: TypeAlias = dict[str, tuple[str, ...]]

NUM_WORDINGS = 20

_FRAMES = {
    "train": ("{}", "please {}", "i want you to {}", "your job is to {}"),
    "rephrase": ("would you mind if you had to {}", "be so kind and {}", "robot, {}", "the operator requests: {}"),
    "easy": ("{}", "please {}", "now {}", "the next thing to do: {}"),
    "hard": ("{}", "please {}", "see to it that you {}", "could you {}"),
}

_TRAIN: Phrases = {
    "reach": (
        "move the gripper to the target",
        "reach the target position",
        "bring the hand to the goal point",
        "reach for the goal with the gripper",
        "put the gripper where the target is",
    ),
    "push": (
        "push the puck to the target",
        "move the puck over the table to the goal",
        "push the puck until it is at the goal",
        "bring the puck to the target on the table",
        "push the small puck to where the target is",
    ),
    "pick-place": (
        "pick up the puck and place it at the target",
        "take the puck and put it at the goal",
        "lift the puck to the target",
        "pick the puck up and move it through the air to the goal",
        "carry the puck to the target position",
    ),
    "button-press": (
        "press the button",
        "push the button in",
        "press the button on the box",
        "push the red button of the box all the way in",
        "move the hand forward and press the button",
    ),
    "door-unlock": (
        "unlock the door",
        "turn the lock to unlock the door",
        "move the lock until the door is unlocked",
        "push the lock to the open position",
        "turn the lock on the door to the right",
    ),
    "door-open": (
        "open the door",
        "pull the door open",
        "open the door of the safe by the handle",
        "take the door handle and pull the door open",
        "pull the handle until the door is open",
    ),
    "window-open": (
        "open the window",
        "push the window open",
        "move the window handle to the right to open it",
        "push the window handle until the window is open",
        "slide the window open",
    ),
    "faucet-open": (
        "open the faucet",
        "turn the faucet on",
        "turn the handle of the faucet to open it",
        "turn the faucet handle to the right",
        "push the faucet handle until the water is on",
    ),
    "coffee-push": (
        "push the mug under the coffee machine",
        "move the mug to the coffee machine",
        "bring the mug to its place under the machine",
        "push the coffee mug to the target",
        "put the mug under the spout of the coffee machine",
    ),
    "coffee-button": (
        "press the button of the coffee machine",
        "push the coffee button",
        "turn the coffee machine on",
        "press the coffee button on the machine",
        "push the button on the front of the coffee machine",
    ),
}

_REPHRASE: Phrases = {
    "reach": (
        "hover at the marked spot with your fingers",
        "guide your end effector towards the highlighted location",
        "stretch the arm out until it touches the marker",
        "navigate the claw over to the destination",
        "align the tip of the arm with the green dot",
    ),
    "push": (
        "shove the cylinder across the surface to the marked spot",
        "nudge the disc along until it rests on the marker",
        "slide the little cylinder onto the destination",
        "drag the disc along the tabletop towards the green dot",
        "relocate the cylinder on the surface, without raising it, to the marker",
    ),
    "pick-place": (
        "grasp the cylinder and hold it up at the marked spot",
        "grab the disc, raise it and deliver it to the marker",
        "clutch the cylinder and transport it to the destination above",
        "hoist the disc to the green dot in mid-air",
        "seize the cylinder with both fingers and elevate it to the marker",
    ),
    "button-press": (
        "depress the knob on the case",
        "hit the switch in front of you",
        "poke the big round switch until it clicks",
        "activate the switch by squeezing it inwards",
        "ram the knob into its housing",
    ),
    "door-unlock": (
        "release the bolt of the safe",
        "rotate the latch clockwise so that nothing is bolted anymore",
        "undo the latch",
        "swivel the deadbolt away to free the entrance",
        "twist the latch so the entrance can be used",
    ),
    "door-open": (
        "swing the cabinet wide",
        "tug at the grip to give access to the safe's inside",
        "let me look inside the cabinet",
        "yank the hinged panel towards yourself",
        "make the entrance of the cabinet accessible",
    ),
    "window-open": (
        "let some fresh air in",
        "glide the pane aside so air can enter",
        "shift the glass pane rightwards",
        "draw the sash back to ventilate the room",
        "uncover the opening behind the glass pane",
    ),
    "faucet-open": (
        "let the tap run",
        "rotate the tap lever counter to its closed state",
        "start the flow from the tap",
        "swivel the tap lever rightwards",
        "get the tap flowing",
    ),
    "coffee-push": (
        "slide the cup beneath the brewer",
        "shove the cup towards the espresso maker",
        "position the cup below the nozzle",
        "park the cup where the brewer pours",
        "nudge the cup along until it stands beneath the nozzle",
    ),
    "coffee-button": (
        "start the brewer",
        "switch on the espresso maker",
        "activate brewing with the knob at the top",
        "hit the start switch of the brewer",
        "get the espresso maker going",
    ),
}

_EASY: Phrases = {
    "reach-wall": (
        "reach the target behind the wall",
        "move the gripper around the wall to the target",
        "bring the hand past the wall to the goal point",
        "reach over the wall to the goal",
        "put the gripper at the target without touching the wall",
    ),
    "push-wall": (
        "push the puck around the wall to the target",
        "move the puck past the wall to the goal",
        "push the puck to the target behind the wall",
        "bring the puck to the other side of the wall, to the target on the table",
        "push the puck by the wall until it is at the goal",
    ),
    "pick-place-wall": (
        "pick up the puck and place it behind the wall",
        "lift the puck over the wall to the target",
        "carry the puck over the wall to the goal",
        "take the puck and put it at the target behind the wall",
        "pick the puck up, go over the wall, and bring it to the goal",
    ),
    "button-press-wall": (
        "press the button behind the wall",
        "go over the wall and press the button",
        "reach past the wall and push the button in",
        "push the button on the box that stands behind the wall",
        "move the hand over the wall and press the button",
    ),
    "door-lock": (
        "lock the door",
        "turn the lock to lock the door",
        "move the lock until the door is locked",
        "push the lock down to the closed position",
        "turn the lock on the door downwards",
    ),
    "door-close": (
        "close the door",
        "push the door shut",
        "close the door of the safe by the handle",
        "push the door until it is closed",
        "move the open door back to closed",
    ),
    "window-close": (
        "close the window",
        "push the window shut",
        "move the window handle to the left to close it",
        "push the window handle until the window is closed",
        "slide the window shut",
    ),
    "faucet-close": (
        "close the faucet",
        "turn the faucet off",
        "turn the handle of the faucet to close it",
        "turn the faucet handle to the left",
        "push the faucet handle until the water is off",
    ),
}

_HARD: Phrases = {
    "hammer": (
        "hammer the nail in",
        "pick up the hammer and drive the nail into the box",
        "take the hammer and hit the nail with it",
        "drive the nail home with the hammer",
        "use the hammer to push the nail into the wood",
    ),
    "soccer": (
        "kick the ball into the goal",
        "score a goal with the ball",
        "push the soccer ball into the goal",
        "bring the ball into the net",
        "shoot the soccer ball between the posts",
    ),
    "make-coffee": (
        "make coffee",
        "push the mug under the coffee machine, then press its button",
        "first put the mug under the machine and after that press the coffee button",
        "fill the mug with coffee",
        "bring the mug to the coffee machine and turn the machine on",
    ),
    "locked-door-open": (
        "open the locked door",
        "unlock the door, then open it",
        "first turn the lock and after that pull the door open",
        "get the door of the safe open although it is locked",
        "turn the lock up out of the way and pull the door handle",
    ),
}

PHRASES: dict[Split, Phrases] = {
    "train": _TRAIN,
    "rephrase": _REPHRASE,
    "easy": _EASY,
    "hard": _HARD,
}


def phrasings(task: str, split: Split) -> tuple[str, ...]:
    """Return the twenty phrasings of a task in a split; neighbours are in different frames."""
    return tuple(frame.format(phrase) for phrase in PHRASES[split][task] for frame in _FRAMES[split])
