"""What a genesis document says about a module that the world begins with: everything, its code included.

The code is in the document itself and nowhere else, so whoever has the genesis can execute the world from block 1 on,
and the hash of the genesis stands for manifests and code alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from agentworld_core.codec import Value, bytes_up_to, decode_value, encode_value, message
from agentworld_core.errors import InvalidField, MalformedEncoding

MAX_GENESIS_MODULES = 64
MAX_MANIFEST_BYTES = 8 * 1024
MAX_GENESIS_MODULE_BYTES = 896 * 1024
"""Of all modules together, code and manifests: the document must fit a ConfigMap (1 MiB) with its directory."""


@message(32, "genesis_module")
class GenesisModule:
    """A module that is active from block 1 on: its manifest, an encoded document, and its WebAssembly code."""

    manifest_cbor: Annotated[bytes, bytes_up_to(MAX_MANIFEST_BYTES)]
    code: Annotated[bytes, bytes_up_to(MAX_GENESIS_MODULE_BYTES)]


def genesis_module(manifest: Mapping[str, Value], code: bytes) -> GenesisModule:
    """Returns the message of a manifest and the code that it names; ``beginning.check_module`` judges them."""
    return GenesisModule(encode_value(dict(manifest)), code)


def manifest_of(module: GenesisModule, field: str) -> dict[str, Value]:
    """Returns the manifest as the document that it is; raises InvalidField when it is none."""
    try:
        found = decode_value(module.manifest_cbor, limit=MAX_MANIFEST_BYTES)
    except MalformedEncoding as error:
        raise InvalidField(f"is not an encoded document: {error.message}", field=field) from error
    if not isinstance(found, dict):
        raise InvalidField("must be a map", field=field)
    return found
