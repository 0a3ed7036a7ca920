"""The modules that a world begins with: what makes them acceptable, and what the state before block 1 holds of them.

They are judged as a proposal that brings them in would be, and recorded as if one had: so they are upgraded and taken
out of force by proposals like all others. Their registration names tick 0 and proposal 0, which no proposal has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from agentworld_core.codec import Value
from agentworld_core.errors import InvalidField
from agentworld_core.genesis_module import (
    MAX_GENESIS_MODULE_BYTES,
    MAX_GENESIS_MODULES,
    GenesisModule,
    manifest_of,
)
from agentworld_core.hashing import content_id
from agentworld_core.world.modules.artifacts import split_artifact
from agentworld_core.world.modules.changes import Activation, Changes, Registration
from agentworld_core.world.modules.exports import ALLOC, MEMORY, check_exports
from agentworld_core.world.modules.manifest import ModuleManifest, parse_manifest
from agentworld_core.world.modules.records import (
    ARTIFACTS_KEY,
    MANIFEST_KEY,
    ActiveRecord,
    ArtifactPiece,
    ArtifactRecord,
    ArtifactTotal,
    ManifestRecord,
    RegistryRecord,
    active_key,
    artifact_key,
    piece_key,
    registry_key,
)
from agentworld_core.world.modules.sandbox import InvalidModule, Sandbox
from agentworld_core.world.modules.shadow import CAPS_DENIED, Shadow
from agentworld_core.world.state import Draft
from agentworld_core.world.tree import Tree

BEFORE_ALL = 0
"""The tick and the proposal that brought the modules of the genesis in."""


def check_modules(modules: Sequence[GenesisModule], field: str = "modules") -> None:
    """Raises InvalidField unless a world can begin with these modules: each right, in order of ids, not too much."""
    if len(modules) > MAX_GENESIS_MODULES:
        raise InvalidField(f"must be at most {MAX_GENESIS_MODULES}", field=field, value=len(modules))
    check_size(modules, field)
    before = ""
    for index, module in enumerate(modules):
        found = check_module(module, f"{field}[{index}]")
        if found.module_id <= before:
            says = f"must come after {before}: modules stand once, in order of their ids"
            raise InvalidField(says, field=f"{field}[{index}].module_id", value=found.module_id)
        before = found.module_id


def check_size(modules: Sequence[GenesisModule], field: str) -> None:
    """Raises InvalidField when modules are together more than a genesis document carries."""
    size = sum(len(module.code) + len(module.manifest_cbor) for module in modules)
    if size > MAX_GENESIS_MODULE_BYTES:
        raise InvalidField(
            f"the modules of a genesis may have {MAX_GENESIS_MODULE_BYTES} bytes together",
            field=field,
            value=f"{size} bytes",
            remedy="strip debug sections, or bring the largest in by a proposal: agentworld module publish",
        )


def check_module(module: GenesisModule, field: str, *, sandbox: Sandbox | None = None) -> ModuleManifest:
    """Returns the manifest of a module that a world can begin with; raises InvalidField that names what is wrong.

    ``sandbox`` judges the code itself as well, which without one is only looked at from outside.
    """
    document = manifest_of(module, field)
    manifest = parse_manifest(document, field)
    actual = content_id(module.code)
    if manifest.wasm_hash != actual:
        raise InvalidField(
            f"the code has {actual}",
            field=f"{field}.wasm_hash",
            value=manifest.wasm_hash,
            remedy="give the code that the manifest names, or the manifest of this code",
        )
    _judge_code(module.code, manifest, field, sandbox)
    _judge_rest(module, manifest, document, field)
    return manifest


def put_modules(draft: Draft, modules: Sequence[GenesisModule]) -> None:
    """Puts modules, which have been checked, into the state that a world begins with: registered and in force."""
    _put_artifacts(draft, modules)
    for module in modules:
        document = manifest_of(module, "modules")
        manifest = parse_manifest(document)
        draft.put(
            registry_key(manifest.module_id, manifest.version),
            RegistryRecord(manifest=document, tick=BEFORE_ALL, proposal=BEFORE_ALL),
        )
        draft.put(active_key(manifest.module_id), ActiveRecord(manifest.version))
        key = artifact_key(manifest.wasm_hash)
        record = draft.record(key, ArtifactRecord)
        assert record is not None, "it was put before"
        draft.put(key, dataclasses.replace(record, uses=record.uses + 1))
    draft.put(MANIFEST_KEY, ManifestRecord(active=len(modules)))


def _put_artifacts(draft: Draft, modules: Sequence[GenesisModule]) -> None:
    codes = {content_id(module.code): module.code for module in modules}  # two modules may share one
    for artifact, code in codes.items():
        count = len(split_artifact(code))
        for index, piece in enumerate(split_artifact(code)):
            data = piece["data"]
            assert isinstance(data, bytes)
            draft.put(piece_key(artifact, index), ArtifactPiece(data))
        draft.put(artifact_key(artifact), ArtifactRecord(count=count, received=count, size=len(code)))
    draft.put(ARTIFACTS_KEY, ArtifactTotal(sum(len(code) for code in codes.values())))


def _judge_code(code: bytes, manifest: ModuleManifest, field: str, sandbox: Sandbox | None) -> None:
    entries = tuple([name for name in manifest.exports if name not in (ALLOC, MEMORY)])
    try:
        check_exports(code, entries)
        if sandbox is not None:
            sandbox.check(code, entries)
    except InvalidModule as error:
        raise InvalidField(
            f"is no module that a world takes: {error.message}",
            field=f"{field}.code" + (f".{error.field}" if error.field else ""),
            value=error.value,
            remedy=error.remedy or "see docs/modules.md, and try agentworld module check",
        ) from error


def _judge_rest(module: GenesisModule, manifest: ModuleManifest, document: dict[str, Value], field: str) -> None:
    """Raises InvalidField for the first thing that the shadow of a proposal of this module would find."""
    draft = Draft(Tree.empty())
    _put_artifacts(draft, (module,))
    changes = Changes(
        register=(Registration(manifest.module_id, manifest.version, document),),
        upgrade=(),
        activate=(Activation(manifest.module_id, manifest.version),),
        deactivate=(),
        rollback=(),
        patch=(),
        new_version=None,
    )
    shadow = Shadow(draft=draft, changes=changes, sandbox=None, tick=BEFORE_ALL)
    shadow.judge({})
    for error in shadow.errors:
        match error:
            case {"code": str(code), "path": str(path), "message": str(message)}:
                place = path.removeprefix(f"changes.register.{manifest.module_id}")
                raise InvalidField(message, field=f"{field}{place}", remedy=_REMEDIES.get(code))


_REMEDIES = {
    CAPS_DENIED: "bring the module in by a proposal, after the capability has been granted in the running world"
}
