"""Runs other programs, waits on conditions, and carries the one error that ends a command with a sentence."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path


class ClusterError(Exception):
    """What went wrong and what to do about it, in words for the user."""


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    text: str | None = None,
) -> str:
    """Runs a command to its end and returns what it printed; ClusterError with its last lines when it fails.

    `text` is fed to its standard input; `env` is added to the environment.
    """
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            input=text or "",
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"{words[0]} is not installed") from error
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ClusterError(f"{' '.join(words[:6])} … ended with {done.returncode}:\n{tail}")
    return done.stdout


def answers(command: Sequence[str], *, seconds: float) -> bool:
    """Tells whether a command exists and succeeds in time, and shows nothing of it."""
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
    except (FileNotFoundError, PermissionError, subprocess.TimeoutExpired):
        return False


def wait_until(condition: Callable[[], bool], *, what: str, seconds: float) -> None:
    """Returns once the condition holds; ClusterError naming it when the time is over."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            raise ClusterError(f"gave up after {seconds:.0f} s waiting for {what}")
        time.sleep(0.1)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Holds SIGINT and SIGTERM back until the block has ended: what it starts is known before anybody cleans up.

    Signals reach the main thread only; in another thread there is nothing to hold back.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, lambda number, _frame: held.append(number))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        for number in held:
            signal.raise_signal(number)
