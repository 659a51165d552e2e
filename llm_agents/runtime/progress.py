"""Progress bars, also over trainings that go on in other processes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from llm_agents.runtime.run import Run

POLL_SECONDS = 5.0  # reading all metrics costs a third of a second at the end of a long run


@contextmanager
def watch_progress(title: str, run: Run, steps: dict[str, int]) -> Iterator[None]:
    """A progress bar over trainings that go on in other processes, read from what they log.

    Args:
        steps: how many steps each stage will take.
    """
    ended = threading.Event()
    done = dict.fromkeys(steps, 0)

    def watch(advance: Callable[..., None]) -> None:
        while not ended.wait(POLL_SECONDS):
            for line in run.metrics():
                stage, step = line["stage"], line["step"]
                if step > done.get(stage, step):
                    advance(step - done[stage])
                    done[stage] = step

    with progress_bar(title, sum(steps.values())) as advance:
        thread = threading.Thread(target=watch, args=(advance,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            advance(sum(steps.values()) - sum(done.values()) if not sys.exc_info()[0] else 0)


def ignore_progress(n: int = 1, note: str = "") -> None:
    """Advance no bar."""


class _Rate(ProgressColumn):
    """Steps a second."""

    def render(self, task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "-/s")


class progress_bar:
    """A progress bar with rate and time left; as a context it gives a function that advances it by ``n`` and may note
    how it goes."""

    def __init__(self, name: str, total: int, done: int = 0) -> None:
        columns: Sequence = (
            TextColumn(f"{name:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns)
        self._task = self._progress.add_task(name, total=total, completed=done, note="")

    def __enter__(self) -> Callable[..., None]:
        self._progress.start()
        return self._advance

    def _advance(self, n: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=n, note=note)

    def __exit__(self, *exception) -> None:
        self._progress.stop()
