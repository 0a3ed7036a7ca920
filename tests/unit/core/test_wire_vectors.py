"""The golden vectors, read by an encoder and a decoder that share nothing with the project's.

What is imported from the project is only asked to agree. Ed25519 is libsodium's here and OpenSSL's there.
"""

from __future__ import annotations

import functools
import json
import re
import struct
from pathlib import Path
from typing import Any

import cbor2
import pytest
from blake3 import blake3
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from agentworld_core import ids
from agentworld_core.codec import decode, decode_value, encode, encode_value
from agentworld_core.errors import RETRYABLE_WIRE_CODES, WIRE_CODES, AgentWorldError
from agentworld_core.signing import signed_bytes, verify_bytes
from wirespec.schema import all_messages

DOCS = Path(__file__).parents[3] / "docs"
FILE: dict[str, Any] = json.loads((DOCS / "wire-vectors.json").read_text(encoding="utf-8"))
SCHEMA: dict[str, dict[str, Any]] = {entry["name"]: entry for entry in FILE["schema"]}
BY_NAME = {message.name: message.cls for message in all_messages().values()}


def case_of(entry: dict[str, Any]) -> str:
    return f"{entry['name']}: {entry['case']}"


# An implementation of docs/wire.md in thirty lines


def head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes([major << 5 | argument])
    for code, form in ((24, ">B"), (25, ">H"), (26, ">I"), (27, ">Q")):
        if argument < 1 << (8 * struct.calcsize(form)):
            return bytes([major << 5 | code]) + struct.pack(form, argument)
    raise AssertionError(argument)


def encoded(value: Any) -> bytes:
    """Encodes what stands in the file."""
    if value is None or isinstance(value, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(encoded, value))
    if "$bytes" in value:
        data = bytes.fromhex(value["$bytes"])
        return head(2, len(data)) + data
    if "$int" in value:
        return encoded(int(value["$int"]))
    if "$message" in value:
        schema = SCHEMA[value["$message"]]
        return encoded([schema["number"], *(value[field["name"]] for field in schema["fields"])])
    entries = sorted((encoded(key), encoded(item)) for key, item in value.items())
    return head(5, len(entries)) + b"".join(key + item for key, item in entries)


def content_id(data: bytes) -> str:
    return blake3(data).hexdigest()


def unsigned(value: dict[str, Any]) -> dict[str, Any]:
    return {**value, "signatures": []} if "signatures" in value else {**value, "signature": {"$bytes": ""}}


def covered(value: dict[str, Any]) -> bytes:
    """What the signature of a message covers."""
    name = value["$message"]
    return f"agentworld/v1/{name}/{value['world_id']}\0".encode() + encoded(unsigned(value))


def votes_of(certificate: dict[str, Any]) -> list[dict[str, Any]]:
    """The precommits that a certificate stands for."""
    shared = ("world_id", "height", "term", "attempt", "block_hash", "directory_epoch")
    common = {name: certificate[name] for name in shared}
    return [{**common, "phase": 2, **vote, "$message": "vote"} for vote in certificate["votes"]]


def plain(value: Any) -> Any:
    """What stands in the file as Python data; messages as lists."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        return bytes.fromhex(value["$bytes"])
    if "$int" in value:
        return int(value["$int"])
    if "$message" in value:
        schema = SCHEMA[value["$message"]]
        return [schema["number"], *(plain(value[field["name"]]) for field in schema["fields"])]
    return {key: plain(item) for key, item in value.items()}


# The file agrees with itself and with the document


@pytest.mark.box("S1.4", "vectors")
@pytest.mark.parametrize("entry", FILE["messages"], ids=case_of)
def test_a_message_has_this_encoding_and_content_id(entry: dict[str, Any]) -> None:
    data = bytes.fromhex(entry["encoding"])
    assert encoded(entry["value"]) == data
    assert content_id(data) == entry["content_id"]
    assert cbor2.loads(data) == plain(entry["value"])
    assert cbor2.dumps(plain(entry["value"]), canonical=True) == data, "another library's canonical form is the same"


@pytest.mark.box("S1.4", "signatures")
@pytest.mark.parametrize("entry", [entry for entry in FILE["messages"] if "signatures" in entry], ids=case_of)
def test_a_signature_covers_these_bytes_and_can_be_made_again(entry: dict[str, Any]) -> None:
    value = entry["value"]
    carriers = votes_of(value) if entry["name"] == "certificate" else [value] * len(entry["signatures"])
    assert len(carriers) == len(entry["signatures"])
    for signature, carrier in zip(entry["signatures"], carriers, strict=True):
        data = bytes.fromhex(signature["signed_bytes"])
        key = SigningKey(bytes.fromhex(signature["seed"]))
        assert data == covered(carrier)
        assert bytes(key.verify_key).hex() == signature["public_key"]
        assert blake3(bytes(key.verify_key)).digest()[:16].hex() == signature["key_id"]
        assert key.sign(data).signature.hex() == signature["signature"]
        assert signature["signature"] in entry["encoding"]


@pytest.mark.box("S1.2", "fields")
def test_every_message_has_a_vector_and_every_signed_one_a_signed_vector() -> None:
    cases = [entry["name"] for entry in FILE["messages"]]
    signed = {entry["name"] for entry in FILE["messages"] if "signatures" in entry}
    assert set(cases) == set(SCHEMA)
    for name, schema in SCHEMA.items():
        fields = {field["name"] for field in schema["fields"]}
        if "world_id" in fields and fields & {"signature", "signatures"}:
            assert name in signed


@pytest.mark.box("S1.4", "canonical")
@pytest.mark.parametrize("entry", FILE["values"], ids=lambda entry: entry["encoding"][:40])
def test_data_without_a_schema(entry: dict[str, Any]) -> None:
    data = bytes.fromhex(entry["encoding"])
    assert encoded(entry["value"]) == data
    assert content_id(data) == entry["content_id"]
    assert cbor2.dumps(plain(entry["value"]), canonical=True) == data
    assert encode_value(plain(entry["value"])) == data
    assert decode_value(data) == plain(entry["value"])


@pytest.mark.box("S1.4", "content-id")
@pytest.mark.box("S1.2", "batch")
def test_ids_in_the_small_world_are_those_of_the_document() -> None:
    """The hash table of the document, checked on the values that fit each other."""
    values: dict[str, list[dict[str, Any]]] = {name: [] for name in SCHEMA}
    for entry in FILE["messages"]:
        values[entry["name"]].append(entry["value"])
    block, batch, genesis = values["block"][0], values["batch"][0], values["genesis"][0]
    action, directories = values["action"][0], values["directory"]
    assert action["payload_hash"] == content_id(bytes.fromhex(action["payload_cbor"]["$bytes"]))
    assert action["action_id"] == content_id(encoded({**unsigned(action), "action_id": ""}))
    assert batch["batch_id"] == content_id(encoded([content_id(encoded(item)) for item in batch["actions"]]))
    assert block["action_root"] == content_id(encoded(batch))
    assert block["prev_block_hash"] == content_id(encoded(genesis))
    assert block["journal_ref"] == content_id(encoded({"$message": "journal", "segments": block["segments"]}))
    assert block["segments"][0]["content_hash"] == content_id(encoded(values["events"][0]))
    events = [item for item in values["event"] if item["tick"] == 1]
    assert block["event_root"] == content_id(encoded({"$message": "events", "events": events}))
    assert block["receipts_root"] == content_id(encoded(values["receipts"][0]))
    manifest = values["snapshot_manifest"][0]
    assert block["snapshot_ref"] == content_id(encoded(manifest))
    assert manifest["chunks"][0]["content_hash"] == content_id(encoded(values["state_chunk"][0]))
    assert manifest["state_root"] == block["state_root"] == content_id(encoded(values["tree_leaf"][0]))
    assert directories[1]["previous_hash"] == content_id(encoded(unsigned(directories[0])))
    assert directories[1]["revoked"][0]["statement"] == content_id(encoded(unsigned(values["revocation"][0])))
    assert values["certificate"][0]["block_hash"] == values["head"][0]["block_hash"] == content_id(encoded(block))


@pytest.mark.box("S1.4", "signatures")
@pytest.mark.parametrize("entry", FILE["unverifiable"], ids=lambda entry: entry["why"])
def test_these_signatures_do_not_verify(entry: dict[str, str]) -> None:
    key, data, signature = (bytes.fromhex(entry[name]) for name in ("public_key", "signed_bytes", "signature"))
    with pytest.raises(BadSignatureError):
        VerifyKey(key).verify(data, signature)
    assert not verify_bytes(key, signature, data)


@pytest.mark.box("S1.3", "codes")
def test_keys_hashes_and_wire_codes() -> None:
    for entry in FILE["hashes"]:
        assert content_id(bytes.fromhex(entry["bytes"])) == entry["content_id"]
    for entry in FILE["keys"]:
        public = bytes(SigningKey(bytes.fromhex(entry["seed"])).verify_key)
        assert entry["seed"] == content_id(entry["name"].encode())
        assert (public.hex(), blake3(public).digest()[:16].hex()) == (entry["public_key"], entry["key_id"])
    assert {code for code, says in FILE["wire_codes"].items() if says["retryable"]} == RETRYABLE_WIRE_CODES
    assert set(FILE["wire_codes"]) == WIRE_CODES


# The project agrees with the file


@pytest.mark.box("S1.4", "round-trip")
@pytest.mark.box("S1.2", "fields")
@pytest.mark.parametrize("entry", FILE["messages"], ids=case_of)
def test_the_project_reads_and_writes_the_vector(entry: dict[str, Any]) -> None:
    data = bytes.fromhex(entry["encoding"])
    message = decode(BY_NAME[entry["name"]], data)
    assert encode(message) == data
    if entry["name"] != "certificate":
        for signature in entry.get("signatures", ()):
            assert signed_bytes(message).hex() == signature["signed_bytes"]


@pytest.mark.box("S1.4", "one-encoding")
@pytest.mark.parametrize("entry", FILE["refusals"], ids=lambda entry: f"{entry['decode_as']}: {entry['why']}")
def test_these_encodings_are_refused(entry: dict[str, Any]) -> None:
    data = bytes.fromhex(entry["encoding"])
    limit = {"limit": entry["limit"]} if "limit" in entry else {}
    read = decode_value if entry["decode_as"] == "value" else functools.partial(decode, BY_NAME[entry["decode_as"]])
    with pytest.raises(AgentWorldError) as caught:
        read(data, **limit)
    assert caught.value.code == entry["code"]


def test_the_worked_example_of_the_document_is_a_vector() -> None:
    text = (DOCS / "wire.md").read_text(encoding="utf-8")
    example = text[text.index("## A worked example") : text.index("## Gossip")]
    entry = next(entry for entry in FILE["messages"] if entry["name"] == "action")
    said = "".join(example[example.index("these are the bytes") :].split("```")[1].split())
    assert said == entry["encoding"]
    for name in ("seed", "public_key", "key_id"):
        assert entry["signatures"][0][name] in example
    signature = entry["signatures"][0]["signature"]
    assert signature[:64] in example
    assert signature[64:] in example


@pytest.mark.box("S1.1", "grammar")
def test_the_expressions_of_the_document_are_those_that_hold() -> None:
    text = (DOCS / "wire.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^\| (id|kind|content id|key id) \| `([^`]+)`", text, flags=re.MULTILINE))
    assert said == {
        "id": ids._ID.pattern,
        "kind": ids._KIND.pattern,
        "content id": ids._HASH.pattern,
        "key id": ids._KEY_ID.pattern,
    }
