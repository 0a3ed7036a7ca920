"""The generated parts of docs/wire.md."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from agentworld_core import errors as core_errors
from agentworld_core.codec import DEFAULT_LIMIT, encode, encode_value
from agentworld_core.codec_values import MAX_DEPTH
from agentworld_core.errors import RETRYABLE_WIRE_CODES, WIRE_CODES, AgentWorldError
from agentworld_core.hashing import content_id
from agentworld_core.ledger import errors as ledger_errors
from agentworld_core.messages import ActionEnvelope
from agentworld_core.signing import signed_bytes
from agentworld_core.world import errors as world_errors
from agentworld_core.world.actions import action_id_of, envelope_id
from agentworld_node.network import port
from agentworld_node.storage import errors as storage_errors
from wirespec.journeys import GOSSIP, HTTP, JOURNEYS, NETWORK, SIGNERS, STREAM
from wirespec.samples import signer, worked_action
from wirespec.schema import Message, all_messages

_REACH_PEERS: tuple[ModuleType, ...] = (core_errors, ledger_errors, world_errors, port, storage_errors)


def sections() -> dict[str, str]:
    """Returns the text of every generated section by its name."""
    unknown = {*JOURNEYS, *SIGNERS} - {message.name for message in all_messages().values()}
    if unknown:
        raise SystemExit(f"hack/wirespec/journeys.py speaks of {sorted(unknown)}, which are no messages")
    return {
        "limits": _table(("what", "limit"), _limits()),
        "topics": _table(("topic", "message", "sender", "bytes taken at most"), _ways(GOSSIP)),
        "requests": _table(("protocol", "message", "sender", "bytes taken at most"), _ways(STREAM)),
        "http": _table(("endpoint", "message", "sender", "bytes taken at most"), _ways(HTTP)),
        "wire codes": _table(("wire code", "may be tried again"), _wire_codes()),
        "errors": _table(("code", "wire code", "HTTP status", "meaning"), _errors()),
        "example": "\n".join(_example()) + "\n",
        "table": _table(("number", "message", "signed", "contains"), _overview()),
        "messages": "\n".join(line for message in all_messages().values() for line in _message(message)),
    }


def _table(head: tuple[str, ...], rows: Iterator[tuple[object, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)


def _limits() -> Iterator[tuple[str, str]]:
    yield "an encoding, where nothing else is said", _bytes(DEFAULT_LIMIT)
    yield "lists and maps in each other in data without a schema", str(MAX_DEPTH)
    yield "a gossip message", _bytes(NETWORK.publish_bytes)
    yield "a request and an answer", _bytes(NETWORK.request_bytes)
    yield "requests that one peer may have open", str(NETWORK.serve_per_peer)


def _ways(way: str) -> Iterator[tuple[str, ...]]:
    for name, journeys in JOURNEYS.items():
        for journey in journeys:
            if journey.way == way:
                yield journey.where, _link(name), journey.sender, _bytes(journey.limit)


def _bytes(count: int) -> str:
    return next(
        (f"{count >> shift} {unit}" for shift, unit in ((20, "MiB"), (10, "KiB")) if count % (1 << shift) == 0),
        f"{count} bytes",
    )


def _link(name: str) -> str:
    return f"[{name}](#{name})"


def _wire_codes() -> Iterator[tuple[str, str]]:
    for code in sorted(WIRE_CODES):
        yield f"`{code}`", "yes, later, unchanged" if code in RETRYABLE_WIRE_CODES else "no"


def _errors() -> Iterator[tuple[object, ...]]:
    kinds: dict[str, type[AgentWorldError]] = {}
    for module in _REACH_PEERS:
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, AgentWorldError) and kind.__module__ == module.__name__:
                kinds.setdefault(kind.code, kind)
    for code, kind in sorted(kinds.items()):
        if kind is not AgentWorldError:
            yield f"`{code}`", f"`{kind.wire}`", kind.http_status, _first_sentence(kind)
    yield "`internal`", "`ERR_NOT_AVAILABLE`", 500, "The node failed; its log says why."


def _first_sentence(kind: type[Any]) -> str:
    return _prose(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]).replace("|", "\\|")


def _overview() -> Iterator[tuple[object, ...]]:
    for message in all_messages().values():
        signed = "" if message.signature_field is None else f"`{message.signature_field}`"
        yield message.number, _link(message.name), signed, ", ".join(map(_link, message.parts))


def _message(message: Message) -> Iterator[str]:
    yield f"### {message.name}"
    yield ""
    yield f"Number {message.number}, {len(message.fields)} fields. {_prose(message.meaning)}"
    yield ""
    if message.signature_field is not None:
        whom = SIGNERS.get(message.name, "see its meaning")
        yield f"Signed (`{message.signature_field}`, over the bytes of `agentworld/v1/{message.name}/…`) by {whom}."
        yield ""
    for journey in JOURNEYS.get(message.name, ()):
        yield f"- {journey.way}: {journey.where}, from {journey.sender}, at most {_bytes(journey.limit)}"
    containers = [_link(other.name) for other in all_messages().values() if message.name in other.parts]
    if containers:
        yield f"- inside {', '.join(containers)}"
    yield ""
    yield "| # | field | type | must be |"
    yield "|---|---|---|---|"
    for index, (name, kind) in enumerate(message.fields, 1):
        words, bounds = kind.words()
        yield f"| {index} | `{name}` | {words} | {bounds} |"
    yield ""


def _prose(docstring: str) -> str:
    return " ".join(docstring.replace("``", "`").split())


def _example() -> Iterator[str]:
    action, ada = worked_action(), signer("ada")
    payload, covered, data = action.payload_cbor, signed_bytes(action), encode(action)
    yield "The seed of ada's key is the BLAKE3 of the three bytes `ada`:"
    yield ""
    yield "```"
    yield f"seed        {ada.seed.hex()}"
    yield f"public key  {ada.public_key.hex()}"
    yield f"key id      {ada.key_id}      first 16 bytes of the BLAKE3 of the public key"
    yield "```"
    yield ""
    yield 'The payload is data without a schema, `{"position": [3, -4]}`:'
    yield ""
    yield "```"
    yield "a1                      map of 1"
    yield "  68 706f736974696f6e   text of 8 bytes: position"
    yield "  82 03 23              list of 2: 3, -4"
    yield ""
    yield f"payload_cbor  {payload.hex()}"
    yield f"payload_hash  {content_id(payload)}"
    yield "```"
    yield ""
    yield "The action, field by field; `action_id` and `signature` are still empty:"
    yield ""
    yield "```"
    yield from _annotated(action)
    yield "```"
    yield ""
    yield "The BLAKE3 of these bytes is the `action_id`. It is filled in (`78 40` and its 64 digits in the place of"
    yield "`60`); the signature stays empty. What is signed is the domain and those bytes:"
    yield ""
    yield "```"
    yield f"action_id     {action_id_of(action)}"
    domain = covered[: covered.index(b"\0") + 1]
    yield f"domain        {domain.hex()}"
    yield f"              {domain[:-1].decode()} and a zero byte"
    yield f"signed bytes  the domain and {len(covered) - len(domain)} bytes, BLAKE3 {content_id(covered)}"
    yield f"signature     {action.signature.hex()[:64]}"
    yield f"              {action.signature.hex()[64:]}"
    yield "```"
    yield ""
    yield f"With the signature in its place (`58 40` and 64 bytes for `40`) the action has {len(data)} bytes; their"
    yield f"BLAKE3 is `{envelope_id(action)}`, and these are the bytes:"
    yield ""
    yield "```"
    text = data.hex()
    yield from (text[start : start + 96] for start in range(0, len(text), 96))
    yield "```"


def _annotated(action: ActionEnvelope) -> Iterator[str]:
    yield f"{'8b':<6}{'':<36}list of 11"
    yield f"{'01':<6}{'':<36}schema number 1"
    for name, kind in all_messages()[1].fields:
        value = getattr(action, name)
        if name in ("action_id", "signature"):
            value = type(value)()
        head, body = _parts(value)
        shown = body if len(body) <= 32 else f"{body[:28]}…"
        yield f"{head:<6}{shown:<36}{name}: {kind.words()[0]}{_said(value)}"


def _said(value: object) -> str:
    """Returns how a person would write the value; long texts and bytes are shown by their length."""
    if isinstance(value, int):
        return f" {value}"
    if isinstance(value, str) and len(value) < 32:
        return f" {value}" if value else " of nothing"
    return f" of {len(value)}" if isinstance(value, str | bytes) else ""


def _parts(value: int | str | bytes) -> tuple[str, str]:
    """Returns the head and the body of an encoding."""
    data = encode_value(value)
    body = len(data) - 1
    if not isinstance(value, int):
        body = len(value.encode() if isinstance(value, str) else value)
    return data[: len(data) - body].hex(), data[len(data) - body :].hex()
