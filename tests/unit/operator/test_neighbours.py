"""The clients of the API server and of the nodes, each against a server on loopback."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from kubernetes.aio import client

from agentworld_core.codec import decode, encode
from agentworld_core.messages import Revocation
from agentworld_operator.errors import AlreadyExists, Conflict, KubernetesError, NodeRefused, NodeUnreachable
from agentworld_operator.kube.api import KubernetesApi
from agentworld_operator.nodes.client import NodeClient

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
STATEMENT = Revocation(world_id="w", key_id="0" * 32, reason="r", revoked_at_ms=1, requester_id="k", signatures=())


@asynccontextmanager
async def served(handler: Handler) -> AsyncIterator[str]:
    """Serves every request with the handler and yields ``host:port``."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def kube(handler: Handler) -> AsyncIterator[KubernetesApi]:
    async with served(handler) as address:
        api = KubernetesApi(client.ApiClient(client.Configuration(host=f"http://{address}")), timeout_seconds=5)
        try:
            yield api
        finally:
            await api.close()


@asynccontextmanager
async def node(handler: Handler) -> AsyncIterator[tuple[NodeClient, str]]:
    async with served(handler) as address, aiohttp.ClientSession() as session:
        yield NodeClient(session, timeout_seconds=2), address


async def test_apply_is_a_server_side_apply_by_our_manager() -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(path=request.path, query=dict(request.query), type=request.content_type, body=await request.json())
        return web.json_response({"ok": True})

    obj = {"kind": "Lease", "metadata": {"name": "l", "namespace": "n"}}
    async with kube(handler) as api:
        assert await api.apply(obj) == {"ok": True}
        assert api.writes == 1
    assert seen == {
        "path": "/apis/coordination.k8s.io/v1/namespaces/n/leases/l",
        "query": {"fieldManager": "agentworld-operator", "force": "true"},
        "type": "application/apply-patch+yaml",
        "body": obj,
    }


async def test_a_list_is_read_to_its_end_and_reads_are_no_writes() -> None:
    async def handler(request: web.Request) -> web.Response:
        assert request.query["labelSelector"] == "a=b"
        if "continue" in request.query:
            return web.json_response({"items": [{"metadata": {"name": "2"}}], "metadata": {}})
        return web.json_response({"items": [{"metadata": {"name": "1"}}], "metadata": {"continue": "more"}})

    async with kube(handler) as api:
        found = await api.find("Pod", "n", labels={"a": "b"})
        assert [(obj["kind"], obj["metadata"]["name"]) for obj in found] == [("Pod", "1"), ("Pod", "2")]
        assert (api.writes, api.requests["GET"]) == (0, 2)


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [(409, "AlreadyExists", AlreadyExists), (409, "Conflict", Conflict), (403, "Forbidden", KubernetesError)],
)
async def test_refusals_are_typed_and_keep_the_words(status: int, reason: str, expected: type[Exception]) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response({"reason": reason, "message": "because"}, status=status)

    async with kube(handler) as api:
        with pytest.raises(expected, match="because"):
            await api.create({"kind": "Pod", "metadata": {"name": "p", "namespace": "n"}})


async def test_nothing_there_is_none_and_deleting_it_is_fine() -> None:
    async def handler(request: web.Request) -> web.Response:
        status = 409 if request.path.endswith("replaced") else 404
        return web.json_response({"reason": "x", "message": "y"}, status=status)

    async with kube(handler) as api:
        assert await api.get("Pod", "n", "gone") is None
        await api.delete("Pod", "n", "gone", uid="u")
        await api.delete("Pod", "n", "replaced", uid="u")


async def test_an_api_server_that_is_not_there_is_a_typed_error() -> None:
    api = KubernetesApi(client.ApiClient(client.Configuration(host="http://127.0.0.1:1")), timeout_seconds=2)
    with pytest.raises(KubernetesError) as caught:
        await api.get("Pod", "n", "p")
    assert caught.value.status == 0
    await api.close()


async def test_status_patches_go_to_the_subresource() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, request.content_type, await request.json()))
        return web.json_response({})

    async with kube(handler) as api:
        await api.patch_status("World", "n", "aurora", {"phase": "Ready"})
    path = "/apis/agentworld.dev/v1alpha1/namespaces/n/worlds/aurora/status"
    assert seen == [(path, "application/merge-patch+json", {"status": {"phase": "Ready"}})]


async def test_a_revocation_reaches_a_node_as_cbor() -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.path, dict(request.query), decode(Revocation, await request.read())))
        return web.json_response({})

    async with node(handler) as (nodes, address):
        await nodes.push_revocation(address, STATEMENT, force=False)
        await nodes.push_revocation(address, STATEMENT, force=True)
    path = "/control/v1/revocations"
    assert seen == [(path, {}, STATEMENT), (path, {"force": "true"}, STATEMENT)]


@pytest.mark.parametrize(
    ("body", "status", "code", "again"),
    [
        ({"error": {"code": "state_mismatch", "message": "no", "retryable": False}}, 409, "state_mismatch", False),
        ({"code": "busy", "message": "no", "retryable": True}, 503, "busy", True),
        ({}, 500, "http_500", True),
        ([], 400, "http_400", False),
    ],
)
async def test_a_nodes_refusal_keeps_its_code(body: Any, status: int, code: str, again: bool) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    async with node(handler) as (nodes, address):
        with pytest.raises(NodeRefused) as caught:
            await nodes.push_revocation(address, STATEMENT, force=False)
    assert (caught.value.refusal, caught.value.again) == (code, again)


async def test_what_is_no_json_no_directory_or_too_much_is_refused() -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/v1/status":
            return web.Response(body=b"\xff not json")
        if request.path.endswith("/1"):
            return web.Response(body=encode(STATEMENT))
        return web.Response(body=b"x" * (5 * 1024 * 1024))

    async with node(handler) as (nodes, address):
        for call in (nodes.status(address), nodes.directory(address, 1), nodes.directory(address, 2)):
            with pytest.raises(NodeRefused):
                await call


async def test_a_node_that_is_silent_or_away_is_unreachable() -> None:
    async def handler(request: web.Request) -> web.Response:
        request.transport.close() if request.transport else None
        return web.Response()

    async with node(handler) as (nodes, address):
        for place in (address, "127.0.0.1:1"):
            with pytest.raises(NodeUnreachable):
                await nodes.status(place)
