"""Small readers and writers of Kubernetes objects, which are plain dictionaries here."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from agentworld_core.hashing import content_id
from agentworld_core.topology.plan import VALIDATOR_LABEL, WORLD_LABEL
from agentworld_core.topology.resources import API_VERSION, Metadata

Object = dict[str, Any]

_STORAGE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
_UNITS = {"": 1, **{f"{unit}": 1000**n for n, unit in enumerate("kMGTP", 1)}}
_UNITS |= {f"{unit}i": 1024**n for n, unit in enumerate("KMGTP", 1)}

MANAGER = "agentworld-operator"
APP = "agent-world-node"
COMPONENT_LABEL = "app.kubernetes.io/component"
APPLIED = "agentworld.dev/applied"
WORLD_UID = "agentworld.dev/world-uid"
TEMPLATE_HASH = "agentworld.dev/template-hash"
MOUNTS_REVISION = "agentworld.dev/mounts-revision"
NODE_ID = "agentworld.dev/node-id"


def name_of(obj: Mapping[str, Any]) -> str:
    """Returns the object's name."""
    return str(obj["metadata"]["name"])


def uid_of(obj: Mapping[str, Any]) -> str:
    """Returns the object's uid, empty before it was stored."""
    return str(obj["metadata"].get("uid", ""))


def annotation(obj: Mapping[str, Any], key: str) -> str:
    """Returns an annotation, empty when absent."""
    return str((obj["metadata"].get("annotations") or {}).get(key, ""))


def label(obj: Mapping[str, Any], key: str) -> str:
    """Returns a label, empty when absent."""
    return str((obj["metadata"].get("labels") or {}).get(key, ""))


def is_deleting(obj: Mapping[str, Any]) -> bool:
    """True when the object is on its way out."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def by_name(objects: Iterable[Object]) -> dict[str, Object]:
    """Returns the objects by name, in order of name."""
    return {name_of(obj): obj for obj in sorted(objects, key=name_of)}


def owner_of(obj: Mapping[str, Any]) -> str:
    """Returns the uid of the controlling owner, empty when there is none."""
    for reference in obj["metadata"].get("ownerReferences") or []:
        if reference.get("controller"):
            return str(reference.get("uid", ""))
    return ""


def belongs_to(obj: Mapping[str, Any], world_uid: str) -> bool:
    """True when the object was made for that very World, not for a former one of the same name."""
    return owner_of(obj) == world_uid or annotation(obj, WORLD_UID) == world_uid


def labels(world: str, component: str, validator: str = "") -> dict[str, str]:
    """Returns the labels of an object made for a world."""
    result = {
        "app.kubernetes.io/name": APP,
        "app.kubernetes.io/instance": world,
        "app.kubernetes.io/part-of": "agent-world",
        "app.kubernetes.io/managed-by": MANAGER,
        COMPONENT_LABEL: component,
        WORLD_LABEL: world,
    }
    if validator:
        result[VALIDATOR_LABEL] = validator
    return result


def selector(world: str, component: str = "") -> dict[str, str]:
    """Returns the labels that select a world's pods, of one component or all."""
    result = {"app.kubernetes.io/name": APP, WORLD_LABEL: world}
    if component:
        result[COMPONENT_LABEL] = component
    return result


def metadata(world: Metadata, name: str, *, component: str, validator: str = "", owned: bool = True) -> dict[str, Any]:
    """Returns the metadata of an object made for a world; owned ones go when the World goes."""
    result: dict[str, Any] = {
        "name": name,
        "namespace": world.namespace,
        "labels": labels(world.name, component, validator),
        "annotations": {WORLD_UID: world.uid},
    }
    if owned:
        result["ownerReferences"] = [owner_reference(world)]
    return result


def owner_reference(world: Metadata) -> dict[str, Any]:
    """Returns the reference that makes an object the World's."""
    return {
        "apiVersion": API_VERSION,
        "kind": "World",
        "name": world.name,
        "uid": world.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def digest_of(value: Any) -> str:
    """Returns a short hash of plain data, the same for equal data."""
    return content_id(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())[:16]


def bytes_of(quantity: str) -> int:
    """Returns the bytes of a storage quantity such as ``10Gi``, rounded down; 0 when it is none."""
    matched = _STORAGE.fullmatch(quantity)
    if matched is None:
        return 0
    whole, _, fraction = matched.group(1).partition(".")
    unit: int = _UNITS[matched.group(2) or ""]
    return int(whole) * unit + (int(fraction) * unit // 10 ** len(fraction) if fraction else 0)


def to_base64(data: bytes) -> str:
    """Returns bytes as Secrets and ConfigMaps hold them."""
    return base64.b64encode(data).decode()


def data_of(obj: Mapping[str, Any], field: str = "data") -> dict[str, bytes]:
    """Returns the decoded ``data`` of a Secret, or ``binaryData`` of a ConfigMap; what is no base64 is left out."""
    result = {}
    for key, value in (obj.get(field) or {}).items():
        try:
            result[key] = base64.b64decode(value, validate=True)
        except (ValueError, TypeError):
            continue
    return result


def files_of(config_map: Mapping[str, Any]) -> dict[str, bytes]:
    """Returns all values of a ConfigMap as bytes: the text of ``data`` and what ``binaryData`` encodes."""
    texts = {key: str(value).encode() for key, value in (config_map.get("data") or {}).items()}
    return {**texts, **data_of(config_map, "binaryData")}
