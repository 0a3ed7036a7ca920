"""What a Lease object means and how one is changed, without an API server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pykube
import pytest
import requests

from agentworld_core.ordering.lease import LeaseWrite
from agentworld_node.kube import leases
from agentworld_node.kube.leases import LeaseWatch, lease_body, record_of
from tests.unit.node.running import eventually

NOW = "2026-01-01T00:00:00.000000Z"


def lease(**spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "l", "resourceVersion": "7", "managedFields": [1], "labels": {"a": "b"}},
        "spec": spec,
    }


@pytest.mark.parametrize(
    ("spec", "holder", "term", "duration_ms"),
    [
        ({}, None, 0, 0),
        ({"holderIdentity": ""}, None, 0, 0),
        ({"holderIdentity": "v0", "leaseTransitions": 0, "leaseDurationSeconds": 15}, "v0", 1, 15_000),
        ({"holderIdentity": "", "leaseTransitions": 4, "leaseDurationSeconds": 1}, None, 5, 1000),
    ],
)
def test_a_lease_is_read(spec: dict[str, Any], holder: str | None, term: int, duration_ms: int) -> None:
    record = record_of(lease(**spec))
    assert (record.holder, record.term, record.duration_ms, record.version) == (holder, term, duration_ms, "7")
    assert record_of({**lease(), "spec": None}).term == 0


@pytest.mark.parametrize("duration_ms", [1, 999, 1000, 1001, 15_000])
def test_what_is_written_reads_back_and_is_never_shorter(duration_ms: int) -> None:
    wanted = LeaseWrite(holder="v0", term=3, duration_ms=duration_ms, expected_version="9")
    body = lease_body(lease(strategy="kept"), wanted, now=NOW)
    record = record_of(body)
    assert (record.holder, record.term, record.version) == ("v0", 3, "9")
    assert record.duration_ms >= duration_ms
    assert body["spec"]["strategy"] == "kept"
    assert body["metadata"]["labels"] == {"a": "b"}
    assert "managedFields" not in body["metadata"]


def test_the_time_of_acquisition_changes_with_the_term_alone() -> None:
    held = lease(holderIdentity="v0", leaseTransitions=2, acquireTime="before", renewTime="before")
    same = LeaseWrite(holder="v0", term=3, duration_ms=1000, expected_version="7")
    renewed = lease_body(held, same, now=NOW)["spec"]
    assert (renewed["acquireTime"], renewed["renewTime"]) == ("before", NOW)
    other = LeaseWrite(holder="v1", term=4, duration_ms=1000, expected_version="7")
    assert lease_body(held, other, now=NOW)["spec"]["acquireTime"] == NOW
    assert held["spec"]["acquireTime"] == "before", "what was read is not changed"
    released = LeaseWrite(holder=None, term=3, duration_ms=1000, expected_version="7")
    assert lease_body(held, released, now=NOW)["spec"]["holderIdentity"] == ""


class Api:
    """Answers one watch after the other as it is told: with so many events, and then an end or an error."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: tuple[int, Exception | None]):
        monkeypatch.setattr(leases, "REQUEST_SECONDS", 0.01)
        self._answers = list(answers)
        self.asked = 0
        self.silent = threading.Event()

    def watch(self, name: str) -> Iterator[None]:
        assert name == "l"
        self.asked += 1
        if not self._answers:
            self.silent.wait()
            return
        events, error = self._answers.pop(0)
        yield from [None] * events
        if error is not None:
            raise error


@pytest.mark.parametrize(
    "error", [None, requests.ConnectionError("Read timed out."), pykube.exceptions.HTTPError(410, "too old")]
)
async def test_a_watch_that_ends_is_begun_again_without_a_word(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception | None
) -> None:
    caplog.set_level("INFO")
    api = Api(monkeypatch, (1, error), (2, error), (1, None))
    watch = LeaseWatch("l", api.watch)
    await eventually(lambda: api.asked == 4, what="the fourth watch")
    await watch.next()
    watch.stop()
    api.silent.set()
    assert caplog.text == ""


@pytest.mark.parametrize(
    "error",
    [
        pykube.exceptions.HTTPError(403, "forbidden"),
        requests.ConnectionError("refused"),
        TypeError("an error body that is a list"),
        AttributeError("a line that is no object"),
        NotImplementedError("a way to authenticate that pykube does not know"),
    ],
)
async def test_a_watch_that_is_refused_is_tried_again_and_told_once_until_it_has_worked(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    caplog.set_level("INFO")
    api = Api(monkeypatch, (0, error), (0, error), (1, None), (0, error))
    watch = LeaseWatch("l", api.watch)
    await watch.next()
    await eventually(lambda: api.asked == 5, what="the fifth watch")
    watch.stop()
    api.silent.set()
    assert caplog.text.count("Lease l cannot be watched") == 2


async def test_a_watch_that_was_stopped_tells_and_says_nothing_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    more = threading.Event()
    ended = threading.Event()

    def watch(_name: str) -> Iterator[None]:
        try:
            yield
            more.wait()
            yield
            raise requests.ConnectionError("Read timed out.")
        finally:
            ended.set()

    following = LeaseWatch("l", watch)
    await following.next()
    following.stop()
    more.set()
    await eventually(ended.is_set, what="the end of the thread's watch")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await following.next()
    assert caplog.text == ""
