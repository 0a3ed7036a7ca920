"""Finds the modules that a World's manifest names for its genesis, and says everything that is wrong with them.

Both homes gather *sources* and ask here: a source is a ConfigMap, or on one machine also a folder that stands for one.
The manifest of a module is beside its code: for the key ``counter.wasm`` under ``counter.json``, or else
``manifest.json``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

from agentworld_core.errors import InvalidField
from agentworld_core.genesis_module import GenesisModule, genesis_module
from agentworld_core.hashing import content_id
from agentworld_core.topology.world_spec import ArtifactSpec, GenesisSpec, ModuleSpec
from agentworld_core.world.modules.beginning import check_module, check_size
from agentworld_core.world.modules.documents import read_json
from agentworld_core.world.modules.manifest import parse_manifest
from agentworld_core.world.modules.sandbox import Sandbox

ARTIFACT_LABEL = "agentworld.dev/artifact"
"""Set to ``true`` on ConfigMaps in which a ``blob`` is looked for."""

MANIFEST_KEY = "manifest.json"
MAX_MANIFEST_TEXT = 64 * 1024
_FIELD = "spec.genesis.modules"


@dataclasses.dataclass(frozen=True)
class Source:
    """Something that holds files by name: ``says`` names it for people, such as ``ConfigMap counter``."""

    says: str
    files: Mapping[str, bytes]


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The modules of a genesis in order of their ids, or, when there are ``problems``, not all of them."""

    modules: tuple[GenesisModule, ...] = ()
    problems: tuple[InvalidField, ...] = ()


def named_config_maps(genesis: GenesisSpec) -> tuple[str, ...]:
    """Returns the names of the ConfigMaps that a genesis needs, each once."""
    return tuple(dict.fromkeys(item.artifact.config_map for item in genesis.modules if item.artifact.config_map))


def names_blobs(genesis: GenesisSpec) -> bool:
    """True when some module is named by its content id alone."""
    return any(item.artifact.blob for item in genesis.modules)


def resolve_modules(
    genesis: GenesisSpec,
    *,
    config_maps: Mapping[str, Source],
    others: Iterable[Source] = (),
    sandbox: Sandbox | None = None,
) -> Resolved:
    """Returns the modules that the spec names, from the ConfigMaps by name and, for blobs, from all sources.

    Every module is judged as a world would judge it; ``sandbox`` judges the code itself as well.
    """
    sources = [*config_maps.values(), *others]
    found: list[tuple[str, GenesisModule]] = []
    problems: list[InvalidField] = []
    for index, spec in enumerate(genesis.modules):
        try:
            module = _resolve(spec, f"{_FIELD}[{index}]", config_maps, sources)
            check_module(module, f"{_FIELD}[{index}] ({spec.module_id})", sandbox=sandbox)
        except InvalidField as error:
            problems.append(error)
            continue
        found.append((spec.module_id, module))
    modules = tuple([module for _, module in sorted(found, key=lambda item: item[0])])
    if not problems:
        try:
            check_size(modules, _FIELD)
        except InvalidField as error:
            problems.append(error)
    return Resolved(modules, tuple(problems))


def _resolve(
    spec: ModuleSpec, field: str, config_maps: Mapping[str, Source], sources: Sequence[Source]
) -> GenesisModule:
    source, key = _place(spec.artifact, f"{field}.artifact", config_maps, sources)
    name = _manifest_key(source, key, f"{field}.artifact")
    code, place = source.files[key], f"{field}.artifact: {source.says}, {name}"
    check_size([GenesisModule(b"", code)], f"{field}.artifact: {source.says}, {key}")
    if len(source.files[name]) > MAX_MANIFEST_TEXT:
        raise InvalidField(f"has more than {MAX_MANIFEST_TEXT} bytes: no manifest is that large", field=place)
    try:
        document = read_json(source.files[name].decode(), place)
    except UnicodeDecodeError as error:
        raise InvalidField(
            "is not text", field=place, remedy="give the manifest as JSON, see docs/modules.md"
        ) from error
    if not isinstance(document, dict):
        raise InvalidField("must be a map", field=place, value=type(document).__name__)
    document = {"wasm_hash": content_id(code), **document}
    manifest = parse_manifest(document, place)
    for path, asked, given in (
        ("moduleId", spec.module_id, manifest.module_id),
        ("version", spec.version, manifest.version),
    ):
        if asked != given:
            says = f"is not what the manifest says ({source.says}, {name}): {given}"
            raise InvalidField(
                says, field=f"{field}.{path}", value=asked, remedy=f"write {given}, or mend the manifest"
            )
    if manifest.wasm_hash != content_id(code):
        raise InvalidField(
            f"is not the code in {key}, which has {content_id(code)}",
            field=f"{place}: wasm_hash",
            value=manifest.wasm_hash,
            remedy="give the code that the manifest names, or leave wasm_hash out",
        )
    return genesis_module(document, code)


def _place(
    artifact: ArtifactSpec, field: str, config_maps: Mapping[str, Source], sources: Sequence[Source]
) -> tuple[Source, str]:
    """Returns where the code is: the source and the key in it."""
    if artifact.blob:
        return _blob(artifact.blob, f"{field}.blob", sources)
    source = config_maps.get(artifact.config_map)
    if source is None:
        name = artifact.config_map
        raise InvalidField(
            "there is no such ConfigMap",
            field=f"{field}.configMapKeyRef.name",
            value=name,
            remedy=f"make it: kubectl create configmap {name} --from-file={artifact.key} --from-file={MANIFEST_KEY}"
            f" (on one machine a folder {name} beside the World's manifest will do)",
        )
    if artifact.key not in source.files:
        keys = ", ".join(sorted(source.files)[:8]) or "nothing"
        raise InvalidField(
            f"is not in {source.says}, which holds {keys}",
            field=f"{field}.configMapKeyRef.key",
            value=artifact.key,
            remedy="name the key that holds the code, or add it",
        )
    return source, artifact.key


def _blob(blob: str, field: str, sources: Sequence[Source]) -> tuple[Source, str]:
    for source in sources:
        for key, data in source.files.items():
            if content_id(data) == blob:
                return source, key
    raise InvalidField(
        f"nothing has this content id in {len(sources)} places that were searched",
        field=field,
        value=blob,
        remedy=f"label the ConfigMap that holds the code {ARTIFACT_LABEL}=true (on one machine put the file beside the"
        " World's manifest), or name it by configMapKeyRef",
    )


def _manifest_key(source: Source, key: str, field: str) -> str:
    own = f"{key.removesuffix('.wasm')}.json"
    for name in (own, MANIFEST_KEY):
        if name in source.files and name != key:
            return name
    raise InvalidField(
        f"has no manifest beside it in {source.says}",
        field=field,
        value=key,
        remedy=f"add the module's manifest as {MANIFEST_KEY} or {own}",
    )
