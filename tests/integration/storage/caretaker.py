"""Runs ``agentworld`` and kills itself at an operation of the disk: ``caretaker.py OPERATION store gc --data FOLDER``.

At the operation with this number, counted from 1, the process gets SIGKILL before or after the operation, as the number
is odd or even; with 0 it runs to its end and prints how many there were.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from agentworld_node.cli import main
from agentworld_node.storage.files import LocalFile, LocalFiles

CHANGES = (
    (LocalFile, ("write_at", "truncate", "sync")),
    (LocalFiles, ("make_folder", "create", "rename", "remove", "sync_folder")),
)


class Countdown:
    """Counts operations and ends the process at one of them."""

    def __init__(self, last: int):
        self.count = 0
        self._last = last

    def wrapped(self, operation: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self.count += 1
            is_last = self.count == self._last
            if is_last and self._last % 2:
                os.kill(os.getpid(), signal.SIGKILL)
            result = operation(*arguments, **options)
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return counted


def run() -> None:
    countdown = Countdown(int(sys.argv[1]))
    for owner, names in CHANGES:
        for name in names:
            setattr(owner, name, countdown.wrapped(getattr(owner, name)))
    sys.argv[1:] = sys.argv[2:]
    try:
        main()
    finally:
        print(f"operations: {countdown.count}", flush=True)


if __name__ == "__main__":
    run()
