"""Shortest paths for an agent that turns and goes forward in an 8x8 grid.

A set of cells is an integer of 64 bits, bit ``8 y + x`` for the cell (x, y). A pose is a cell and a heading; a set of
poses is an integer of 256 bits, four sets of cells, for east, south, west and north. A table holds the number of
actions from each of the 256 poses. Everything is cached, since obstacles seldom move while poses always change.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

CELL_STEPS = (1, 8, -1, -8)  # east, south, west, north
FAR = 255  # the table's entry for a pose without a path
INSIDE = sum(1 << (8 * y + x) for y in range(1, 7) for x in range(1, 7))

_CELLS = (1 << 64) - 1
_POSES = (1 << 256) - 1
_CACHE = 1 << 15

Table = bytes


@lru_cache(_CACHE)
def to_face(free: int, cells: int, then: int = 0) -> Table:
    """Count the actions until the agent faces one of some cells from the cell before it, plus ``then`` more."""
    return _spread(free, {then: _facing(cells) & _everywhere(free)})


@lru_cache(_CACHE)
def to_stand(free: int, cells: int) -> Table:
    """Count the actions until the agent is in one of some cells, whatever its heading."""
    return _spread(free, {0: _everywhere(cells & free)})


@lru_cache(_CACHE)
def to_act(free: int, cell: int, after: Table) -> Table:
    """Count the actions to face a cell, act there once, and then continue as the table ``after`` says."""
    seeds: dict[int, int] = {}
    for pose in bits(_facing(1 << cell) & _everywhere(free)):
        if after[pose] < FAR:
            cost = 1 + after[pose]
            seeds[cost] = seeds.get(cost, 0) | 1 << pose
    return _spread(free, seeds)


def around(cells: int) -> int:
    """Return the four neighbours of each cell in a set."""
    return (cells << 1 | cells >> 1 | cells << 8 | cells >> 8) & _CELLS


def bits(mask: int) -> Iterator[int]:
    """Yield the indices of the bits that are set."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def _spread(free: int, seeds: dict[int, int]) -> Table:
    """Search breadth-first backwards from sets of poses, each with the cost at which it begins."""
    table = bytearray([FAR]) * 256
    standable = _everywhere(free)
    seen = frontier = 0
    last, cost = max(seeds, default=-1), min(seeds, default=0)
    while frontier or cost <= last:
        frontier = (frontier | seeds.get(cost, 0)) & ~seen
        seen |= frontier
        for pose in bits(frontier):
            table[pose] = cost
        frontier = _before(frontier, standable) & ~seen
        cost += 1
    return bytes(table)


def _before(poses: int, standable: int) -> int:
    """Return the poses from which one turn or one step leads to one of these."""
    turned = (poses << 64 | poses >> 192 | poses >> 64 | poses << 192) & _POSES
    stepped = sum(_move(poses >> 64 * h & _CELLS, -step) << 64 * h for h, step in enumerate(CELL_STEPS))
    return turned | (stepped & standable)


def _facing(cells: int) -> int:
    return sum(_move(cells, -step) << 64 * h for h, step in enumerate(CELL_STEPS))


def _everywhere(cells: int) -> int:
    return cells | cells << 64 | cells << 128 | cells << 192


def _move(cells: int, step: int) -> int:
    return (cells << step if step > 0 else cells >> -step) & _CELLS
