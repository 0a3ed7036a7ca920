"""What messages call for is started while the node works, and dropped without a word once it is ending."""

from __future__ import annotations

import asyncio

import pytest

from agentworld_node.roles.spawning import Spawner


class _Stopped(Exception):
    pass


async def test_work_is_done_in_the_group() -> None:
    spawner, done = Spawner(), asyncio.Event()

    async def work() -> None:
        done.set()

    async with asyncio.TaskGroup() as tasks:
        spawner.open(tasks)
        spawner.spawn(work(), name="work")
    assert done.is_set()


async def test_a_message_that_comes_while_the_group_ends_starts_nothing_and_raises_nothing() -> None:
    spawner, began = Spawner(), []

    async def work() -> None:
        began.append(True)

    async def take_messages() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            spawner.spawn(work(), name="late")

    async def end() -> None:
        async with asyncio.TaskGroup() as tasks:
            spawner.open(tasks)
            tasks.create_task(take_messages())
            await asyncio.sleep(0)
            raise _Stopped

    with pytest.raises(ExceptionGroup) as ended:
        await end()
    assert [type(error) for error in ended.value.exceptions] == [_Stopped]
    spawner.spawn(work(), name="later still")
    assert began == []


async def test_a_role_that_has_not_been_started_is_a_mistake() -> None:
    async def work() -> None: ...

    with pytest.raises(RuntimeError, match="not been started"):
        Spawner().spawn(work(), name="early")
