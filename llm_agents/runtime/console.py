"""Where tables are printed."""

from __future__ import annotations

import sys

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

TABLE_WIDTH = 160  # columns, where the output is no terminal


UNLIMITED = 10_000  # columns


def wide_console() -> Console:
    """A console as wide as its terminal; wide enough for a table of results where there is none."""
    return Console(width=None if sys.stdout.isatty() else TABLE_WIDTH)


def agents_table(title: str) -> Table:
    """A table with a row for each agent, whose name is never cut however many columns there are."""
    return Table(Column("agent", no_wrap=True), title=title)


def add_numbers(table: Table, header: str) -> None:
    """A column of numbers; where there are many columns, headers and numbers go over several lines, and none is cut."""
    table.add_column(Text(header), justify="right", overflow="fold")


def print_markdown(table: Table) -> None:
    """A table as Markdown has it, below its title."""
    title = str(table.title)
    table.title, table.box = None, box.MARKDOWN
    console = Console(width=UNLIMITED)
    with console.capture() as captured:
        console.print(table)
    # By the console, which ends quietly where nobody reads any more, as in `| head`.
    console.print(Text(f"{title}:\n\n{captured.get().strip()}\n"))
