"""Whatever is asked of a node over HTTP, the answer is right or names the field, the value and what would be right."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gzip
import json
import logging
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from agentworld_core.codec import encode
from agentworld_core.messages import Actions, Directory
from agentworld_node.api.openapi import openapi_document
from tests.unit.fuzz.mutate import mutated
from tests.unit.node.conftest import ALONE
from tests.unit.node.material import Material, agent, next_epoch, registrations, revocation, signer
from tests.unit.node.running import MemoryWorld, memory_world

pytestmark = pytest.mark.asyncio(loop_scope="module")

CBOR, JSON = "application/cbor", "application/json"
POSTS = ("/v1/actions", "/control/v1/directories", "/control/v1/revocations")

# As they stand in a request line, for every parameter in paths and queries.
ANY_TEXT = ("from", "prefix", "after")
"""Where a height may be so high that there is nothing, and where any text begins or precedes some keys or none."""
ODD = (
    "..", "%2e%2e", "%2f", "..%2f..%2fetc%2fpasswd", "%2e%2e%2f%2e%2e", "%00", "1%00", "a" * 5000, "-1", "0", "1.5",
    "1e9", "0x10", "1_000", "%d9%a1", "9" * 19, "9223372036854775808", "18446744073709551616", "9" * 400, "%ff",
    "%ed%a0%80", "%c3%28", "%", "%zz", "A" * 64, "g" * 64, "0" * 63, "0" * 65, "%20", "1%20", "%0a", "1%0d%0aX:%20y",
    "null", "true", "{}", "'", "%22", "%3cscript%3e", "+1", "%EF%BC%91", "latest%00", "*",
)  # fmt: skip


async def raw(port: int, request: bytes) -> tuple[int, bytes]:
    """Sends the bytes of a request and returns the status and the body of the answer, or of its beginning."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        await writer.drain()
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            return int(head.split()[1]), await reader.readexactly(int(length[1])) if length else b""
    finally:
        writer.close()


def get(target: str, **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"GET {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode()


def post(target: str, body: bytes, *, kind: str | None = CBOR, **headers: str) -> bytes:
    headers = {"Content_Length": str(len(body)), **({} if kind is None else {"Content_Type": kind}), **headers}
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"POST {target} HTTP/1.1\r\nHost: x\r\n{lines}\r\n".encode() + body


def refusal(status: int, body: bytes) -> dict[str, Any]:
    """The error of an answer, which must be typed, must not be an internal one, and must name its field."""
    assert 400 <= status < 500, (status, body)
    document = json.loads(body)
    assert set(document) == {"error"}, body
    error: dict[str, Any] = document["error"]
    assert {"code", "message", "retryable", "field"} <= set(error), body
    assert error["code"] != "internal"
    assert "Traceback" not in body.decode()
    return error


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[MemoryWorld]:
    """A node with a block, which no test here may harm."""
    material = Material(tmp_path_factory.mktemp("node"), validators=("v0",), others=(), parameters=ALONE)
    async with memory_world(material) as running:
        await running.commit("v0", registrations(2)[1])
        yield running


@pytest.fixture
def port(world: MemoryWorld) -> int:
    """The HTTP port of the node."""
    return world.nodes["v0"].node.http_port


@pytest.fixture(autouse=True)
def nothing_is_logged_as_a_failure(caplog: pytest.LogCaptureFixture) -> Any:
    yield
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert [record for record in caplog.records if record.exc_info] == []


def operations(method: str) -> list[tuple[str, list[dict[str, Any]]]]:
    paths = openapi_document()["paths"]
    return [(path, found[method]["parameters"]) for path, found in paths.items() if method in found]


async def test_odd_parameters_of_every_endpoint_are_refused_or_mean_nothing_here(port: int) -> None:
    body = encode(Actions(()))
    asked = 0
    for method in ("get", "post"):
        for path, parameters in operations(method):
            for parameter in parameters:
                for odd in ODD:
                    name = parameter["name"]
                    filled = re.sub(r"\{\w+\}", "1", path if parameter["in"] == "query" else "")
                    target = f"{filled}?{name}={odd}" if filled else path.replace(f"{{{name}}}", odd)
                    status, answer = await raw(port, get(target) if method == "get" else post(target, body))
                    asked += 1
                    if status == 200:
                        assert "true" in odd or odd == "0" or name in ANY_TEXT, f"{target} was understood"
                    else:
                        error = refusal(status, answer)
                        assert len(str(error.get("value", ""))) <= 200, target
    assert asked > 400


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/v1/blocks?form=1", "form"),
        ("/v1/blocks?from=1&from=2", "from"),
        ("/v1/blocks?from=1;limit=2", "from"),
        ("/v1/blocks?from=", "from"),
        ("/v1/head?x", "x"),
        ("/v1/state/agent/ada?poof=1", "poof"),
        ("/v1/status?%00=1", "\x00"),
        ("/v1/genesis?%ff=1", "\ufffd"),
        ("/v1/blocks/%D9%A1", "block"),
        ("/v1/directories/%D9%A1", "epoch"),
        ("/v1/blocks?limit=%D9%A1", "limit"),
        ("/v1/nothing", "path"),
        ("//v1/head", "path"),
        ("/v1/../v1/head/", "path"),
        ("/v1/blobs/../../../../etc/passwd", "path"),
        ("/v1/blobs/", "path"),
    ],
)
async def test_what_has_no_meaning_is_named(port: int, target: str, field: str) -> None:
    assert refusal(*await raw(port, get(target)))["field"] == field


async def test_the_bounds_that_the_description_gives_are_those_that_hold(port: int) -> None:
    checked = []
    for method in ("get", "post"):
        for path, parameters in operations(method):
            for name, schema in ((item["name"], item["schema"]) for item in parameters if item["in"] == "query"):
                target = re.sub(r"\{key\}", "agent/a0", path)
                if "enum" in schema:
                    right, wrong = (
                        schema["enum"],
                        ["", "no", *(value.upper() for value in schema["enum"] if value.islower())],
                    )
                elif "maxLength" in schema:
                    right, wrong = ["a" * schema["maxLength"]], ["a" * (schema["maxLength"] + 1)]
                else:
                    right, wrong = (
                        [schema["minimum"], schema["maximum"]],
                        [schema["minimum"] - 1, schema["maximum"] + 1],
                    )
                for value in (*right, *wrong):
                    asked = f"{target}?{name}={value}"
                    status, body = await raw(port, get(asked) if method == "get" else post(asked, encode(Actions(()))))
                    named = status >= 400 and json.loads(body)["error"]["field"] == name
                    assert named == (value in wrong), (asked, body)
                checked.append(name)
    assert sorted(checked) == [
        "after", "force", "from", "from", "limit", "limit", "prefix", "proof", "timeout_s", "wait",
    ]  # fmt: skip


async def test_a_wrong_method_names_the_right_ones(port: int) -> None:
    for target, right in (("/v1/head", "GET"), ("/v1/actions", "POST")):
        status, body = await raw(port, f"PATCH {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        error = refusal(status, body)
        assert (status, error["field"], error["value"]) == (405, "method", "PATCH")
        assert right in error["remedy"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    ("kind", "headers", "status", "field"),
    [
        (None, {}, 415, "Content-Type"),
        ("", {}, 415, "Content-Type"),
        ("text/plain", {}, 415, "Content-Type"),
        ("multipart/form-data", {}, 415, "Content-Type"),
        ("multipart/form-data; boundary=x", {}, 415, "Content-Type"),
        ("a/b/c;;;=", {}, 415, "Content-Type"),
        (CBOR, {"Content_Encoding": "wat"}, 415, "Content-Encoding"),
        (CBOR, {"Content_Encoding": "compress"}, 415, "Content-Encoding"),
        (CBOR, {"Content_Encoding": "gzip, gzip"}, 415, "Content-Encoding"),
        (CBOR, {"Content_Encoding": "gzip"}, 400, "body"),
        (CBOR, {"Content_Encoding": "deflate"}, 400, "body"),
    ],
)
async def test_bodies_of_another_kind(
    port: int, path: str, kind: str | None, headers: dict[str, str], status: int, field: str
) -> None:
    answer = await raw(port, post(path, b"not what it is said to be", kind=kind, **headers))
    assert (answer[0], refusal(*answer)["field"]) == (status, field)


@pytest.mark.box("S7.1", "oversized")
async def test_a_compressed_body_is_taken_and_a_bomb_is_not(port: int) -> None:
    body = encode(Actions(()))
    assert await raw(port, post("/v1/actions", gzip.compress(body), Content_Encoding="gzip")) == (
        200,
        b'{"results": []}',
    )
    for path in POSTS:
        bomb = gzip.compress(bytes(50_000_000))
        status, answer = await raw(port, post(path, bomb, Content_Encoding="gzip"))
        error = refusal(status, answer)
        assert (status, error["code"], error["field"]) == (413, "too_large", "body")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{}", "world_id"),
        (b"null", "body"),
        (b"[NaN]", "body"),
        (b'{"actions": [], "more": 1}', "more"),
        (b'{"actions": [], "actions": []}', "actions"),
        (b'{"actions": [NaN]}', "body"),
        (b'{"actions": [Infinity]}', "body"),
        (b'{"actions": null}', "actions"),
        (b'{"actions": [[]]}', "actions[0]"),
        (b'{"\\ud800": 1}', "\ud800"),
        (b'{"world_id": "\\ud800"}', "action_id"),
        (b'"\x00"', "body"),
        ("{}".encode("utf-16"), "body"),
        (b"\xef\xbb\xbf{}", "body"),
        (b'{"nonce": ' + b"1" * 5000 + b"}", "body"),
        (b'{"actions": ' + b"[" * 5_000, "body"),
        (b'{"actions": ' + b"[" * 50_000, "body"),
        (b'{"actions": [' + b"[]," * 100_000 + b"[]]}", "body"),
    ],
)
async def test_bodies_of_json_name_what_is_wrong(port: int, body: bytes, field: str) -> None:
    for kind in (JSON, "application/json; charset=wat"):
        error = refusal(*await raw(port, post("/v1/actions", body, kind=kind)))
        assert error["field"] == field
        assert "Python" not in error["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nonce", -1), ("nonce", 2**64), ("nonce", 10**4000), ("nonce", 1.0), ("nonce", "1"), ("nonce", None),
        ("nonce", True), ("timestamp_ms", 2**63), ("timestamp_ms", -(2**63) - 1), ("world_id", "../.."),
        ("world_id", "a" * 10_000), ("actor_id", "\x00"), ("actor_id", "\ud800"), ("actor_id", ["a"]),
        ("action_kind", ""), ("action_id", "../" * 21 + "x"), ("payload_cbor", "zz"), ("payload_cbor", "0"),
        ("payload_cbor", "00" * 70_000), ("signature", "00" * 63), ("public_key", ""), ("public_key", {}),
    ],
)  # fmt: skip
async def test_fields_of_json_name_what_is_wrong(port: int, field: str, value: Any) -> None:
    action = agent("ada").act("agent.register", {"position": [0, 0]})
    good = {name.name: getattr(action, name.name) for name in dataclasses.fields(action)}
    good = {name: item.hex() if isinstance(item, bytes) else item for name, item in good.items()}
    body = json.dumps({**good, field: value}).encode()
    error = refusal(*await raw(port, post("/v1/actions", body, kind=JSON)))
    assert error["field"] in (field, "body"), error
    body = json.dumps({"actions": [good, {**good, field: value}]}).encode()
    error = refusal(*await raw(port, post("/v1/actions", body, kind=JSON)))
    assert error["field"] in (f"actions[1].{field}", "body"), error


@pytest.mark.box("S7.1", "malformed")
async def test_mutated_messages_name_what_is_wrong(port: int, world: MemoryWorld) -> None:
    genesis = world.material.genesis
    seeds = {
        "/v1/actions": encode(agent("bob").act("agent.register", {"position": [0, 0]})),
        "/control/v1/directories": encode(next_epoch(genesis.directory)),
        "/control/v1/revocations": encode(revocation(signer("v0").key_id)),
    }
    rng = random.Random(11)
    for path, seed in seeds.items():
        for _ in range(60):
            body = mutated(rng, [seed])
            if body != seed:
                status, answer = await raw(port, post(path, body))
                if status >= 300:
                    refusal(status, answer)
    assert isinstance(genesis.directory, Directory)


@pytest.mark.parametrize("path", POSTS)
async def test_truncated_bodies_end_nothing(port: int, path: str) -> None:
    cut: tuple[bytes, ...] = (
        post(path, b"short", Content_Length="100"),
        post(path, b"5\r\nab", Transfer_Encoding="chunked").replace(b"Content-Length: 5\r\n", b""),
        post(path, gzip.compress(bytes(1000))[:-12], Content_Encoding="gzip", Content_Length="100"),
    )
    for request in cut:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        with contextlib.suppress(OSError):  # the server may have reset the connection before we half-close it
            writer.write_eof()
        answer = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                answer = await reader.read()
        writer.close()
        assert b" 500 " not in answer
        assert b"Traceback" not in answer
    assert (await raw(port, get("/livez")))[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /v1/head HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(5000)) + b"\r\n",
        b"GET /v1/head HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/blocks/\xe9 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/blocks/ 1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/head\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/head HTTP/9.1\r\nHost: x\r\n\r\n",
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: wat\r\n\r\n",
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /v1/actions HTTP/1.1\r\nHost: x\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx",
        b"GET http://[::/v1/head HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /v1/head HTTP/1.1\r\nHost: x\r\nExpect: wat\r\n\r\n",
    ],
)
async def test_what_is_hardly_http_gets_a_refusal_and_ends_nothing(port: int, request_bytes: bytes) -> None:
    status, body = await raw(port, request_bytes)
    assert 400 <= status < 500, body
    assert b"Traceback" not in body
    assert (await raw(port, get("/livez")))[0] == 200


async def test_headers_that_mean_nothing_are_let_be(port: int) -> None:
    for headers in ({"Accept": "\x80"}, {"Range": "bytes=-1-"}, {"If_None_Match": '"'}, {"Cookie": "a=b; c"}):
        status, _ = await raw(port, get("/v1/head", **headers))
        assert status == 200


async def test_a_place_to_resume_at_that_is_none_is_refused(port: int) -> None:
    """To begin at the head instead would pass over events in silence."""
    for last in ("-1", "x", "1.5", "9" * 19, "9" * 400, "\x80"):
        status, body = await raw(port, get("/v1/events", Last_Event_ID=last))
        assert (status, refusal(status, body)["field"]) == (400, "Last-Event-ID")
    for last in ("0", "1", ""):
        assert (await raw(port, get("/v1/events", Last_Event_ID=last)))[0] == 200
