"""``python -m benchmarks [environment] [babyai] [meta_world] [sampling] [scoring] [online] [offline] ...``."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from statistics import median

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.harness import Comparison, Skipped, measure

NAMES = ("environment", "babyai", "meta_world", "imagination", "sampling", "scoring", "online", "offline")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed against peers.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"which of {', '.join(NAMES)}; all by default")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    options = parser.parse_args()
    unknown = set(options.names) - set(NAMES)
    if unknown or options.rounds < 1 or options.threads < 1:
        parser.error(f"no benchmark {min(unknown)!r}: known are {', '.join(NAMES)}" if unknown else "at least 1")
    torch.set_num_threads(options.threads)
    console = Console(file=sys.stdout)
    table = Table(title=f"{options.rounds} rounds, {options.threads} thread(s); ratio: median and range of the rounds")
    table.add_column("benchmark")
    for title in ("ours", "theirs", "ours / theirs"):
        table.add_column(title, justify="right", no_wrap=True)
    with console.status("") as status, open(os.devnull, "w") as silence:
        for name in options.names or NAMES:
            status.update(f"preparing {name}")
            with redirect_stdout(silence), redirect_stderr(silence):  # the libraries' own messages
                for comparison in import_module(f"benchmarks.{name}").comparisons():
                    status.update(f"{name}: {comparison.name}")
                    table.add_row(*_row(comparison, options.rounds))
    console.print(table)


def _row(comparison: Comparison | Skipped, num_rounds: int) -> tuple[str, ...]:
    if isinstance(comparison, Skipped):
        return f"{comparison.name}: skipped, {escape(comparison.reason)}", "", "", ""
    result = measure(comparison, num_rounds)
    rates = (f"{median(rates):,.0f} {comparison.unit}/s" for rates in (result.ours, result.theirs))
    return f"{comparison.name}, against {comparison.peer}", *rates, escape(str(result))


if __name__ == "__main__":
    main()
