"""The shadow of a proposal: everything that keeps its changes from being applied, and what they would change.

The report is a function of the proposal, the state and the sandbox's verdict on the code, and part of the ledger. Its
errors have the codes ``REPORT_CODES``, the place in the change set, and a sentence of this project's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from agentworld_core.codec import Value
from agentworld_core.errors import InvalidField
from agentworld_core.world.modules.artifacts import draft_artifact
from agentworld_core.world.modules.changes import Activation, Changes, Registration, Rollback, shadow_hash
from agentworld_core.world.modules.manifest import INTERFACE_VERSION, SYSTEM_LIMITS, ModuleManifest, parse_manifest
from agentworld_core.world.modules.records import (
    MANIFEST_KEY,
    ActiveRecord,
    CapabilityRecord,
    ManifestRecord,
    PreviousRecord,
    RegistryRecord,
    active_key,
    capability_key,
    previous_key,
    registry_key,
)
from agentworld_core.world.modules.sandbox import InvalidModule, Sandbox
from agentworld_core.world.state import Draft

HASH_MISMATCH = "HASH_MISMATCH"
ARTIFACT_MISSING = "ARTIFACT_MISSING"
ABI_INCOMPATIBLE = "ABI_INCOMPATIBLE"
CAPS_DENIED = "CAPS_DENIED"
LIMITS_EXCEEDED = "LIMITS_EXCEEDED"
VERSION_CONFLICT = "VERSION_CONFLICT"
INVALID_MANIFEST = "INVALID_MANIFEST"
REPORT_CODES = (
    ABI_INCOMPATIBLE,
    ARTIFACT_MISSING,
    CAPS_DENIED,
    HASH_MISMATCH,
    INVALID_MANIFEST,
    LIMITS_EXCEEDED,
    VERSION_CONFLICT,
)
MAX_ACTIVE_MODULES = 64
_GIVEN_EXPORTS = ("memory", "alloc")  # what every module exports besides the functions that are called
MAX_FINDINGS = 32
OK = "ok"
FAILED = "failed"


@dataclass(kw_only=True)
class Shadow:
    """One judgement in progress, and what it found."""

    draft: Draft
    changes: Changes
    sandbox: Sandbox | None
    tick: int
    errors: list[Value] = field(default_factory=list)
    warnings: list[Value] = field(default_factory=list)
    effects: list[Value] = field(default_factory=list)

    def judge(self, document: dict[str, Value]) -> dict[str, Value]:
        """Returns the shadow report of a change set and of the document that it was read from.

        Without a sandbox the code itself is not judged again: so when a proposal is applied, after its shadow passed.
        """
        manifest = self.draft.record(MANIFEST_KEY, ManifestRecord) or ManifestRecord()
        found = ""
        try:
            found = shadow_hash(manifest, self.changes, document)
            if self.changes.patch:
                self.effects.append(f"changes the world's manifest at {len(self.changes.patch)} places")
        except InvalidField as error:
            self.refuse(INVALID_MANIFEST, error.field or "changes", error.message)
        self._judge_registrations()
        self._judge_activations(manifest)
        return {
            "status": FAILED if self.errors else OK,
            "manifest_hash": found,
            "errors": self.errors[:MAX_FINDINGS],
            "warnings": self.warnings[:MAX_FINDINGS],
            "changes": self.effects[: 4 * MAX_FINDINGS],
        }

    def refuse(self, code: str, path: str, message: str) -> None:
        """Notes what keeps the changes from being applied."""
        self.errors.append({"code": code, "path": path[:128], "message": message[:256]})

    def _judge_registrations(self) -> None:
        targets: list[tuple[str, str]] = []
        for name, items in (("register", self.changes.register), ("upgrade", self.changes.upgrade)):
            for item in items:
                place = f"changes.{name}.{item.module_id}"
                target = (item.module_id, item.version)
                if target in targets or self._registered(*target):
                    self.refuse(VERSION_CONFLICT, place, f"version {item.version} is registered already")
                targets.append(target)
                if name == "upgrade":
                    self._judge_upgrade(item, place)
                self._judge_manifest(item, place)
                self.effects.append(f"registers {item.module_id}@{item.version}")

    def _judge_upgrade(self, item: Registration, place: str) -> None:
        if not self._registered(item.module_id, item.upgrade_from):
            self.refuse(VERSION_CONFLICT, place, f"version {item.upgrade_from} is not registered")
        active = self.draft.record(active_key(item.module_id), ActiveRecord)
        if active is not None and active.version != item.upgrade_from:
            self.refuse(VERSION_CONFLICT, place, f"the active version is {active.version}, not {item.upgrade_from}")
        activated = [other.version for other in self.changes.activate if other.module_id == item.module_id]
        if item.version not in activated:
            self._warn(place, f"version {item.version} is registered, and not put in force")

    def _judge_manifest(self, item: Registration, place: str) -> None:
        given = item.manifest
        if isinstance(given.get("interface_version"), str) and given["interface_version"] != INTERFACE_VERSION:
            self.refuse(ABI_INCOMPATIBLE, f"{place}.interface_version", f"must be {INTERFACE_VERSION}")
            return
        try:
            manifest = parse_manifest(given, place)
        except InvalidField as error:
            self.refuse(INVALID_MANIFEST, error.field or place, error.message)
            return
        if (manifest.module_id, manifest.version) != (item.module_id, item.version):
            self.refuse(VERSION_CONFLICT, place, "module and version are not those of its manifest")
        if item.wasm_hash and item.wasm_hash != manifest.wasm_hash:
            self.refuse(HASH_MISMATCH, f"{place}.wasm_hash", "is not that of the manifest")
        self._judge_limits(manifest, place)
        self._judge_caps(manifest, place)
        self._judge_code(manifest, place)

    def _judge_limits(self, manifest: ModuleManifest, place: str) -> None:
        most = SYSTEM_LIMITS.to_value()
        for name, value in manifest.limits.to_value().items():
            limit = most[name]
            assert isinstance(value, int)
            assert isinstance(limit, int)
            if value > limit:
                self.refuse(LIMITS_EXCEEDED, f"{place}.limits.{name}", f"{value} is above the maximum of {limit}")
        limits = manifest.limits
        if not (limits.max_gas and limits.max_mem_bytes and limits.max_call_rate and limits.max_output_bytes):
            self._warn(place, "its limits allow no call: gas, memory, call rate and output must all be above 0")
        if not manifest.subscriptions:
            self._warn(place, "it subscribes to nothing, so it is never called")

    def _judge_caps(self, manifest: ModuleManifest, place: str) -> None:
        for name in manifest.required_caps:
            grant = self.draft.record(capability_key(name), CapabilityRecord)
            if grant is None:
                self.refuse(CAPS_DENIED, f"{place}.required_caps", f"there is no capability {name}")
            elif grant.expires_tick and self.tick > grant.expires_tick:
                self.refuse(CAPS_DENIED, f"{place}.required_caps", f"capability {name} has expired")

    def _judge_code(self, manifest: ModuleManifest, place: str) -> None:
        code = draft_artifact(self.draft, manifest.wasm_hash)
        if code is None:
            self.refuse(ARTIFACT_MISSING, f"{place}.wasm_hash", "the artifact is not in the state, or not whole")
            return
        if self.sandbox is None:
            return
        try:
            self.sandbox.check(code, tuple([name for name in manifest.exports if name not in _GIVEN_EXPORTS]))
        except InvalidModule:
            # What a sandbox says about it is its own text; the verdict alone is the same everywhere.
            says = "the artifact is no module that exports memory, alloc and what the manifest names, without imports"
            self.refuse(ABI_INCOMPATIBLE, f"{place}.wasm_hash", says)

    def _judge_activations(self, manifest: ManifestRecord) -> None:
        active = manifest.active
        new = [(item.module_id, item.version) for item in (*self.changes.register, *self.changes.upgrade)]
        started: list[str] = []
        for item in self.changes.activate:
            place = f"changes.activate.{item.module_id}"
            if (item.module_id, item.version) not in new and not self._registered(item.module_id, item.version):
                self.refuse(VERSION_CONFLICT, place, f"version {item.version} is not registered")
            before = self.draft.record(active_key(item.module_id), ActiveRecord)
            active += before is None
            started.append(item.module_id)
            self.effects.append(_activation_text(item, before))
        for gone in self.changes.deactivate:
            place = f"changes.deactivate.{gone.module_id}"
            if gone.module_id not in started and self.draft.record(active_key(gone.module_id), ActiveRecord) is None:
                self.refuse(VERSION_CONFLICT, place, "the module is not active")
            active -= 1
            self.effects.append(f"deactivates {gone.module_id}")
        active += sum([self._judge_rollback(item) for item in self.changes.rollback])
        if active > MAX_ACTIVE_MODULES:
            says = f"{active} modules would be active, at most {MAX_ACTIVE_MODULES} may"
            self.refuse(LIMITS_EXCEEDED, "changes.activate", says)

    def _judge_rollback(self, item: Rollback) -> int:
        """Returns by how many the active modules become more."""
        place = f"changes.rollback.{item.module_id}"
        activated = [other.module_id for other in self.changes.activate]
        if item.module_id in [*activated, *(other.module_id for other in self.changes.deactivate)]:
            self.refuse(VERSION_CONFLICT, place, "the same proposal puts another version in force, or none")
        before = self.draft.record(previous_key(item.module_id), PreviousRecord)
        if before is None:
            self.refuse(VERSION_CONFLICT, place, "the module has never been another one")
            return 0
        active = self.draft.record(active_key(item.module_id), ActiveRecord)
        now = "none" if active is None else active.version
        state = f"its state of before height {before.tick}" if before.state else "no state"
        self.effects.append(f"rolls {item.module_id} back from {now} to {before.version or 'none'}, with {state}")
        return bool(before.version) - (active is not None)

    def _registered(self, module_id: str, version: str) -> bool:
        return self.draft.record(registry_key(module_id, version), RegistryRecord) is not None

    def _warn(self, path: str, message: str) -> None:
        self.warnings.append({"path": path[:128], "message": message[:256]})


def _activation_text(item: Activation, before: ActiveRecord | None) -> str:
    if before is None:
        return f"activates {item.module_id}@{item.version}"
    return f"activates {item.module_id}@{item.version} instead of {before.version}"
