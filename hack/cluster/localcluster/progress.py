"""Says on standard error which step runs and how long it has taken; standard output stays free for results."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


def elapsed(since: float) -> str:
    """Formats the time since a `time.monotonic()` reading as `4.2s` or `3m07s`."""
    seconds = time.monotonic() - since
    return f"{seconds:.1f}s" if seconds < 60 else f"{int(seconds) // 60}m{int(seconds) % 60:02d}s"


def say(text: str) -> None:
    """Prints one line of progress."""
    print(text, file=sys.stderr, flush=True)


class Step:
    """One running step whose detail can be updated: in place on a terminal, at most every 15 seconds elsewhere."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.started = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._shown = self.started

    def update(self, detail: str) -> None:
        """Shows what the step is busy with now."""
        now = time.monotonic()
        if now - self._shown < (0.2 if self._terminal else 15):
            return
        self._shown = now
        line = f"  … {self.title}  {elapsed(self.started)}  {detail}"
        print(
            f"\r\033[K{line[:150]}" if self._terminal else line,
            end="" if self._terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def finish(self, mark: str) -> None:
        """Leaves one final line with the time the step took."""
        start = "\r\033[K" if self._terminal else ""
        say(f"{start}  {mark} {self.title}  {elapsed(self.started)}")


@contextmanager
def step(title: str) -> Iterator[Step]:
    """Announces a step and reports how long it took, also when it fails."""
    running = Step(title)
    if sys.stderr.isatty():
        print(f"  … {title}", end="", file=sys.stderr, flush=True)
    try:
        yield running
    except BaseException:
        running.finish("✗")
        raise
    running.finish("✓")
