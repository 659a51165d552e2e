"""Padding: moving it to the left, and joining texts that are padded."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from llm_agents.models.padding import concatenate, pad_left


@st.composite
def padded(draw_from, rows=None, num_parts=1) -> list[list[Tensor]]:
    """For each part, for each row, its real values (L, 2)."""
    rows = rows or draw_from(st.integers(1, 4))
    lengths = draw_from(
        st.lists(st.lists(st.integers(0, 5), min_size=rows, max_size=rows), min_size=num_parts, max_size=num_parts)
    )
    values = iter(range(1, 10**6))
    return [[torch.tensor([[float(next(values))] * 2 for _ in range(n)]).view(n, 2) for n in part] for part in lengths]


def pad_right(rows: list[Tensor], fill: float = -1.0) -> tuple[Tensor, Tensor]:
    length = max(1, *map(len, rows))
    values = torch.full((len(rows), length, 2), fill)
    for row, value in enumerate(rows):
        values[row, : len(value)] = value
    return values, torch.arange(length) < torch.tensor([len(value) for value in rows])[:, None]


@given(padded())
def test_pad_left_moves_what_is_real_to_the_end_in_its_order(parts):
    (rows,) = parts
    embeds, mask = pad_left(*pad_right(rows))
    for row, value in enumerate(rows):
        begin = len(mask[row]) - len(value)
        assert mask[row].tolist() == [False] * begin + [True] * len(value)
        assert torch.equal(embeds[row, begin:], value)


@given(st.integers(1, 4).flatmap(lambda rows: st.integers(1, 4).flatmap(lambda n: padded(rows, n))))
def test_concatenate_joins_what_is_real_and_says_where_it_begins(parts):
    joined, mask, begins = concatenate([pad_right(part) for part in parts])
    for row in range(len(parts[0])):
        expected = torch.cat([part[row] for part in parts])
        assert mask[row].tolist() == [True] * len(expected) + [False] * (mask.shape[1] - len(expected))
        assert torch.equal(joined[row][mask[row]], expected)
        assert (joined[row][~mask[row]] == 0).all()
        for part, begin in zip(parts, begins, strict=True):
            assert torch.equal(joined[row, begin[row] : begin[row] + len(part[row])], part[row])
