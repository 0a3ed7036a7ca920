"""Memory of pure functions: the same answers, many times faster. Only tests of all nodes in one process profit."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from agentworld_core import codec, signing
from agentworld_core.consensus import certificates, verify
from agentworld_core.membership import directory
from agentworld_core.ordering import batch, mempool
from tests.simulation import adversary, chain, node, oracles

REMEMBERED = 20_000


def install(replace: Callable[[Any, str, Any], None]) -> None:
    """Puts remembering versions in the place of the functions that cost most."""
    verify_bytes = functools.lru_cache(REMEMBERED)(signing.verify_bytes)
    for module in (signing, certificates, directory):
        replace(module, "verify_bytes", verify_bytes)
    replace(verify, "verify", functools.lru_cache(REMEMBERED)(signing.verify))
    encode = functools.lru_cache(REMEMBERED)(codec.encode)
    for module in (verify, batch, mempool, node, chain, oracles, adversary):
        replace(module, "encode", encode)
    replace(directory, "directory_hash", functools.lru_cache(REMEMBERED)(directory.directory_hash))
