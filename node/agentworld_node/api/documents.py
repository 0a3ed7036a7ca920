"""Turns messages into the JSON documents of the gateway and back: hashes as hex, bytes as hex, names unchanged."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from agentworld_core.codec import decode, encode, schema_number
from agentworld_core.errors import InvalidField, MalformedEncoding
from agentworld_core.messages import ActionEnvelope, Actions, Receipt

CBOR = "application/cbor"
_BYTE_FIELDS = ("payload_cbor", "signature", "public_key")


def receipt_document(receipt: Receipt) -> dict[str, Any]:
    """Returns the JSON form of a committed action's receipt; ``ok`` false means it was executed and refused."""
    return {
        "action_id": receipt.action_id,
        "status": "committed",
        "height": receipt.height,
        "position": receipt.position,
        "ok": receipt.ok,
        "code": receipt.code,
        "message": receipt.message,
        "events": {"first": receipt.first_event_id, "count": receipt.event_count},
    }


def actions_from_cbor(body: bytes, *, limit: int) -> tuple[list[ActionEnvelope], bool]:
    """Returns the submitted actions and whether they came as a list; the body is one encoded action or ``Actions``."""
    if schema_number(body) == schema_number(encode(Actions(()))):
        return list(decode(Actions, body, limit=limit).actions), True
    return [decode(ActionEnvelope, body, limit=limit)], False


def actions_from_json(body: object) -> tuple[list[ActionEnvelope], bool]:
    """Returns the actions of a JSON body and whether they came as a list, ``{"actions": [...]}``."""
    if isinstance(body, Mapping) and "actions" in body:
        items = body["actions"]
        for name in body:
            if name != "actions":
                raise InvalidField("may not stand beside actions", field=str(name), remedy="send the actions alone")
        if not isinstance(items, list):
            raise InvalidField("must be a list", field="actions", value=items)
        return [_action_from_json(item, f"actions[{index}].") for index, item in enumerate(items)], True
    return [_action_from_json(body, "")], False


def _action_from_json(item: object, prefix: str) -> ActionEnvelope:
    if not isinstance(item, Mapping):
        raise InvalidField("must be an object", field=prefix.rstrip(".") or "body", value=item)
    names = [field.name for field in dataclasses.fields(ActionEnvelope)]
    unknown = sorted(set(item) - set(names))
    if unknown:
        raise InvalidField("is not a field of an action", field=prefix + unknown[0], remedy=f"use {', '.join(names)}")
    values: dict[str, Any] = {}
    for name in names:
        if name not in item:
            raise InvalidField("is required", field=prefix + name)
        value = item[name]
        if name in _BYTE_FIELDS:
            value = _from_hex(value, prefix + name)
        values[name] = value
    action = ActionEnvelope(**values)
    try:
        # Encoding checks every field's rule and names the one that is wrong.
        return decode(ActionEnvelope, encode(action))
    except MalformedEncoding as error:
        error.field = f"{prefix}{error.field}"
        raise


def _from_hex(value: object, field: str) -> bytes:
    try:
        return bytes.fromhex(value) if isinstance(value, str) else _not_hex(field, value)
    except ValueError:
        return _not_hex(field, value)


def _not_hex(field: str, value: object) -> bytes:
    raise InvalidField("must be bytes in hexadecimal", field=field, value=value)
