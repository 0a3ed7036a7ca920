"""Which modules are active in a state, and which of them are called for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cbor2

from agentworld_core.errors import MalformedEncoding
from agentworld_core.world.modules.apply import (
    MODULE_CALL_FAILED,
    MODULE_STATE_UPDATED,
    POLICY_DECIDED,
    RULE_DECIDED,
)
from agentworld_core.world.modules.documents import kind_matches
from agentworld_core.world.modules.manifest import ACTION_STAGES, ModuleManifest, Subscription, parse_manifest
from agentworld_core.world.modules.records import ACTIVE_PREFIX, ActiveRecord, RegistryRecord, registry_key
from agentworld_core.world.tree import Tree

ANY = "*"
_TABLES_KEPT = 16
_REPORTS = (MODULE_STATE_UPDATED, MODULE_CALL_FAILED, POLICY_DECIDED, RULE_DECIDED)

Called = tuple[tuple[ModuleManifest, tuple[Subscription, ...]], ...]


@dataclass(frozen=True, slots=True)
class ModuleTable:
    """The active modules in order of their ids."""

    modules: tuple[ModuleManifest, ...]

    def called_for(self, stage: str, kinds: Sequence[str]) -> Called:
        """Returns the modules that subscribe to one of these kinds at a stage, with the subscriptions that do."""
        found = []
        for module in self.modules:
            named = [item for item in module.subscriptions if item.stage == stage and _names(item, kinds)]
            if named:
                found.append((module, tuple(named)))
        return tuple(found)

    def handles(self, action_kind: str) -> bool:
        """True when a module subscribes to actions of this kind by more than ``*``: that stands for what exists."""
        for module in self.modules:
            for item in module.subscriptions:
                if item.stage in ACTION_STAGES and any(
                    pattern != ANY and kind_matches(pattern, action_kind) for pattern in item.kinds
                ):
                    return True
        return False


def open_table(tree: Tree) -> ModuleTable | None:
    """Returns the modules that are active in a state, or None when there are none."""
    found = []
    for key, data in tree.items(ACTIVE_PREFIX):
        version = ActiveRecord.from_value(cbor2.loads(data)).version
        record = tree.get(registry_key(key[len(ACTIVE_PREFIX) :].decode(), version))
        if record is None:
            raise MalformedEncoding("an active module is not registered", field="state", value=key.decode())
        found.append(record)
    return _table(tuple(found)) if found else None


@lru_cache(maxsize=_TABLES_KEPT)
def _table(records: tuple[bytes, ...]) -> ModuleTable:
    """Returns the table of these registry records; read once for as long as the same modules are active."""
    manifests = [RegistryRecord.from_value(cbor2.loads(record)).manifest for record in records]
    return ModuleTable(tuple([parse_manifest(manifest) for manifest in manifests]))


def _names(subscription: Subscription, kinds: Sequence[str]) -> bool:
    # What the kernel reports about calls must be asked for by name: two modules that listen to everything would
    # otherwise answer each other's reports.
    report = kinds[0] in _REPORTS
    patterns = [pattern for pattern in subscription.kinds if not (report and pattern == ANY)]
    return any(kind_matches(pattern, kind) for pattern in patterns for kind in kinds)
