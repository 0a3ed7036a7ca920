"""Reads what a request says, strictly: whatever has no meaning here is refused by name, never passed over."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any, NoReturn, TypeVar

from aiohttp import web

from agentworld_core.codec import decode
from agentworld_core.errors import AgentWorldError, InvalidField, MalformedEncoding, TooLarge
from agentworld_core.messages import MAX_ACTIONS_PER_BATCH
from agentworld_node.api.documents import CBOR
from agentworld_node.api.errors import Handler, UnsupportedMediaType
from agentworld_node.api.limits import MAX_BODY_BYTES
from agentworld_node.api.openapi import query_parameters

JSON = "application/json"
_ENCODINGS = ("", "identity", "gzip", "deflate")
_T = TypeVar("_T")


@web.middleware
async def check_query(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses parameters that the endpoint does not know, and those that are given more than once."""
    resource = request.match_info.route.resource
    known = query_parameters(request.method, resource.canonical) if resource is not None else None
    if known is not None:
        for name in request.query:
            if name not in known:
                uses = f"use {', '.join(known)}" if known else "there are none"
                raise InvalidField("is not a parameter of this endpoint", field=name, remedy=uses)
            if len(request.query.getall(name)) > 1:
                raise InvalidField("is given more than once", field=name, value=request.query.getall(name))
    return await handler(request)


def number(text: str) -> int | None:
    """Returns a whole number of at most 19 plain digits, None for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else None


def integer(request: web.Request, name: str, default: int, low: int, high: int) -> int:
    """Returns a query parameter that must be a whole number within bounds."""
    text = request.query.get(name)
    if text is None:
        return default
    value = number(text)
    if value is None or not low <= value <= high:
        raise InvalidField(f"must be an integer from {low} to {high}", field=name, value=text)
    return value


def flag(request: web.Request, name: str) -> bool:
    """Returns a query parameter that is on or off; off when it is not given."""
    text = request.query.get(name, "0")
    if text not in ("0", "1", "false", "true"):
        raise InvalidField("must be 0 or 1", field=name, value=text)
    return text in ("1", "true")


def check_kind(request: web.Request, kinds: Collection[str]) -> str:
    """Returns the media type of the body; raises UnsupportedMediaType for another, or a compression unknown here."""
    encoding = request.headers.get("Content-Encoding", "").lower()
    if encoding not in _ENCODINGS:
        raise UnsupportedMediaType(
            "is not supported", field="Content-Encoding", value=encoding, remedy="use gzip, deflate or none"
        )
    # Without the header aiohttp takes it for application/octet-stream, and so it is one of what is not understood.
    if request.content_type not in kinds:
        raise UnsupportedMediaType(
            "is not supported", field="Content-Type", value=request.content_type, remedy=f"use {' or '.join(kinds)}"
        )
    return request.content_type


def message_of(cls: type[_T], body: bytes) -> _T:
    """Returns the message that a body encodes; errors name the field, or the body when it is no such message at all."""
    try:
        return decode(cls, body, limit=MAX_BODY_BYTES)
    except (MalformedEncoding, TooLarge) as error:
        raise naming_body(error, f"send one {cls.SCHEMA_NAME} in {CBOR}") from None  # type: ignore[attr-defined]


def naming_body(error: AgentWorldError, remedy: str) -> AgentWorldError:
    """Returns the error of a decoder with the body as its field where it names none."""
    if error.field is None:
        error.field, error.remedy = "body", error.remedy or remedy
    return error


def json_of(body: bytes, *, most: int = 2 * MAX_ACTIONS_PER_BATCH) -> object:
    """Returns the JSON document that a body is: UTF-8, no name twice in an object, no numbers that JSON has not.

    More than ``most`` lists and objects are refused before any is built: an empty one has two bytes here and eighty in
    memory, and the parser lets nothing else run meanwhile.
    """
    if body.count(b"[") + body.count(b"{") > most:
        raise InvalidField(f"holds more than {most} lists and objects", field="body")
    try:
        return json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_number)
    except RecursionError as error:
        raise InvalidField("is nested too deep", field="body") from error
    except ValueError as error:
        raise InvalidField("is not JSON in UTF-8", field="body", value=error) from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidField("is given more than once", field=name)
        found[name] = value
    return found


def _no_number(text: str) -> NoReturn:
    raise InvalidField("is no number of JSON", field="body", value=text)
