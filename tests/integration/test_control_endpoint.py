"""The control endpoint of a supervisor: who may talk to it, and what it answers to nonsense."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest

from agentworld_core.errors import AgentWorldError, NotAvailable
from agentworld_node.supervisor.control import MAX_BODY_BYTES, ControlClient, ControlServer
from agentworld_node.supervisor.declared import Outcome
from agentworld_node.supervisor.manifests import Given, RefusedManifests, parse_documents
from agentworld_node.supervisor.record import SupervisorRecord
from agentworld_node.supervisor.state import WorldState
from agentworld_node.supervisor.supervisor import Applied
from tests.integration.worlds import key, world

STATE = WorldState(world="aurora", world_id="aurora", genesis_hash="ab" * 32, gateway="", data="/data")


class FakeSupervisor:
    def __init__(self) -> None:
        self.state: WorldState | None = None
        self.applied: list[tuple[list[str], bool]] = []
        self.stopped = False

    def apply(self, given: list[Given], *, dry_run: bool) -> Applied:
        self.applied.append(([str(item) for item in given], dry_run))
        return Applied(tuple(Outcome(*item.identity, "created") for item in given), ("look out",))

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def supervisor() -> FakeSupervisor:
    return FakeSupervisor()


@pytest.fixture
async def record(supervisor: FakeSupervisor) -> AsyncIterator[SupervisorRecord]:
    server = ControlServer(cast("Any", supervisor))
    url = await server.start()
    yield SupervisorRecord(pid=1, url=url, token=server.token, world="aurora", gateway="", version="0")
    await server.stop()


async def test_apply_world_and_stop(record: SupervisorRecord, supervisor: FakeSupervisor) -> None:
    client = ControlClient(record)
    with pytest.raises(AgentWorldError, match="still starting"):
        await client.world()
    supervisor.state = STATE
    assert await client.world() == STATE

    given = parse_documents([("a.yaml", world(4)), ("a.yaml", key())]).given
    outcomes, notices = await client.apply(given, dry_run=True)
    assert [str(outcome.change) for outcome in outcomes] == ["created", "created"]
    assert notices == ["look out"]
    assert supervisor.applied == [(["World aurora", "MembershipKey aurora-0"], True)]
    await client.stop()
    assert supervisor.stopped


@pytest.mark.parametrize("token", ["", "wrong", "tökén"])
async def test_without_the_token_nothing_is_done(
    record: SupervisorRecord, supervisor: FakeSupervisor, token: str
) -> None:
    stranger = SupervisorRecord(**{**record.__dict__, "token": token})
    with pytest.raises(AgentWorldError, match="the token is missing or wrong"):
        await ControlClient(stranger).stop()
    assert not supervisor.stopped


async def test_refusals_arrive_as_they_were_made(record: SupervisorRecord, supervisor: FakeSupervisor) -> None:
    broken = Given(
        {**world(4), "spec": {"speed": 9}}, parse_documents([("a.yaml", world(4))]).given[0].resource, "a.yaml"
    )

    with pytest.raises(RefusedManifests) as caught:
        await ControlClient(record).apply([broken])
    assert "a.yaml: World aurora: spec.speed: is not a field" in str(caught.value)
    assert supervisor.applied == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"nonsense", b"[]", b"{}", b"7", b"null", b'{"documents": [1]}', b'{"documents": 7}', b"\xff",
        b"[" * 100_000,
        b'{"documents": [{"source": "a"}]}', b'{"documents": [], "documents": []}', b'{"documents": [NaN]}',
        b'{"documents": [], "dry_run": "yes"}', b'{"documents": [], "dryrun": true}',
    ],
)  # fmt: skip
async def test_nonsense_is_a_typed_error(record: SupervisorRecord, supervisor: FakeSupervisor, body: bytes) -> None:
    for kind in ("application/json", "application/json; charset=wat"):
        status, error = await refused(record, "POST", "/v1/apply", data=body, headers={"Content-Type": kind})
        assert (status, error["code"]) == (400, "invalid_field")
        assert error["field"]
    assert supervisor.applied == []


async def refused(record: SupervisorRecord, method: str, path: str, **options: Any) -> tuple[int, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {record.token}", **options.pop("headers", {})}
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, record.url + path, headers=headers, **options) as answer,
    ):
        return answer.status, dict((await answer.json())["error"])


async def test_wrong_paths_methods_and_bodies_are_typed_errors(record: SupervisorRecord) -> None:
    status, error = await refused(record, "GET", "/v1/..%2f..%2fetc")
    assert (status, error["code"], error["field"]) == (404, "not_found", "path")
    status, error = await refused(record, "DELETE", "/v1/world")
    assert (status, error["code"], error["remedy"]) == (405, "unsupported", "use GET, HEAD")
    status, error = await refused(record, "POST", "/v1/apply", data=io.BytesIO(bytes(MAX_BODY_BYTES + 1)))
    assert (status, error["code"], error["field"]) == (413, "too_large", "body")
    status, error = await refused(record, "POST", "/v1/apply", data=b"x", headers={"Content-Encoding": "gzip"})
    assert (status, error["code"], error["field"]) == (400, "invalid_field", "body")
    status, error = await refused(record, "GET", "/v1/world", headers={"Authorization": "Bearer \udcff\udcfe"})
    assert (status, error["code"]) == (403, "unauthorized")


async def test_a_supervisor_that_is_gone_is_said_to_be(record: SupervisorRecord) -> None:
    gone = SupervisorRecord(**{**record.__dict__, "url": "http://127.0.0.1:1"})
    with pytest.raises(NotAvailable, match=r"the supervisor at http://127\.0\.0\.1:1 does not answer"):
        await ControlClient(gone).world()
