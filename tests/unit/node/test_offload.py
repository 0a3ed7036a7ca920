"""Small work is done where it comes up, other work in a thread; either way its outcome is the same."""

from __future__ import annotations

import threading

import pytest

from agentworld_node.offload import offload


@pytest.mark.parametrize("small", [True, False])
async def test_only_small_work_keeps_the_event_loop_waiting(small: bool) -> None:
    assert (await offload(small, threading.get_ident) == threading.get_ident()) is small


@pytest.mark.parametrize("small", [True, False])
async def test_arguments_results_and_errors_pass_through(small: bool) -> None:
    assert await offload(small, int, "ff", base=16) == 255
    with pytest.raises(ValueError, match="'no number'"):
        await offload(small, int, "no number")
