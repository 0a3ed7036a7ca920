"""The generations of the world's keys, as their Secrets tell; a Secret that cannot be used says why."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping

from agentworld_core.errors import InvalidField
from agentworld_core.membership.rings import Generation, KeyRing
from agentworld_core.membership.rotation import Progress
from agentworld_core.signing import Ed25519Signer, key_id_of
from agentworld_operator.plan.files import PRIVATE_KEY
from agentworld_operator.resources.objects import Object, annotation, data_of, label, name_of

KEY_LABEL = "agentworld.dev/membership-key"
SPEC_GENERATION = "agentworld.dev/spec-generation"
"""The ``spec.generation`` for which a key was made: rotation by the clock makes generations that nobody asked for."""

PROGRESS = "agentworld.dev/rotation-progress"
"""What a rotation has to remember about the generation: since when it is trusted, and signs."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldKey:
    """One generation of a MembershipKey in its Secret; ``signer`` is None once the private key was destroyed."""

    secret: str
    generation: Generation
    signer: Ed25519Signer | None = None
    progress: Progress = dataclasses.field(default_factory=Progress)

    @property
    def key_id(self) -> str:
        """The id of the key."""
        return self.generation.key_id

    @property
    def number(self) -> int:
        """The number of the generation."""
        return self.generation.number

    @property
    def public_key(self) -> bytes:
        """The public half."""
        return self.generation.public_key


@dataclasses.dataclass(frozen=True, kw_only=True)
class HeldKeys:
    """All generations of one MembershipKey in order, and what is wrong with the Secrets that cannot be used."""

    name: str
    keys: tuple[HeldKey, ...] = ()
    problems: tuple[InvalidField, ...] = ()

    @property
    def newest(self) -> HeldKey | None:
        """The generation with the highest number."""
        return self.keys[-1] if self.keys else None

    @property
    def usable(self) -> tuple[HeldKey, ...]:
        """The generations whose private key still exists."""
        return tuple(key for key in self.keys if key.signer is not None)

    def by_id(self, key_id: str) -> HeldKey | None:
        """Returns the generation with that key id."""
        return next((key for key in self.keys if key.key_id == key_id), None)

    def ring(self, active_key_id: str) -> KeyRing:
        """Returns the generations as the plans of membership know them."""
        return KeyRing(
            generations=tuple(key.generation for key in self.keys),
            active_key_id=active_key_id,
            progress=self.newest.progress if self.newest else Progress(),
        )


def read_keys(names: Iterable[str], secrets: Mapping[str, Object]) -> dict[str, HeldKeys]:
    """Returns the generations of each MembershipKey from the world's Secrets."""
    return {
        name: _held(name, [secret for secret in secrets.values() if label(secret, KEY_LABEL) == name]) for name in names
    }


def read_private_key(secret: Mapping[str, object], entry: str, *, where: str) -> Ed25519Signer:
    """Returns the signer of a PEM in a Secret; InvalidField says which entry is missing or broken, and the way out."""
    data = data_of(secret)
    if entry not in data:
        raise InvalidField(
            f"has no entry {entry}", field=where, remedy=f"put an Ed25519 private key (PKCS#8 PEM) under {entry}"
        )
    return Ed25519Signer.from_pem(data[entry], field=f"{where}, entry {entry}")


def _held(name: str, secrets: list[Object]) -> HeldKeys:
    keys: list[HeldKey] = []
    problems: list[InvalidField] = []
    for secret in secrets:
        try:
            keys.append(_held_key(name, secret))
        except InvalidField as error:
            problems.append(error)
    ordered = tuple(sorted(keys, key=lambda item: item.number))
    return HeldKeys(name=name, keys=ordered, problems=tuple(problems))


def _held_key(key: str, secret: Object) -> HeldKey:
    where = f"Secret {name_of(secret)}"
    number = name_of(secret).removeprefix(f"{key}-g")
    if not number.isdecimal():
        raise InvalidField("is not named after a generation", field=where, remedy="delete it")
    data = data_of(secret)
    signer: Ed25519Signer | None = None
    if PRIVATE_KEY in data:
        signer = read_private_key(secret, PRIVATE_KEY, where=where)
        public_key = signer.public_key
    else:
        public_key = _public_key(data, where)
    stated = data.get("key-id", b"").decode(errors="replace").strip()
    if stated != key_id_of(public_key):
        raise InvalidField(
            "does not hold the key that its key-id names",
            field=where,
            value=stated,
            remedy="restore the Secret, or raise spec.generation of the MembershipKey",
        )
    asked = annotation(secret, SPEC_GENERATION)
    return HeldKey(
        secret=name_of(secret),
        generation=Generation(
            number=int(number), public_key=public_key, asked=int(asked) if asked.isdecimal() else int(number)
        ),
        signer=signer,
        progress=_progress(annotation(secret, PROGRESS)),
    )


def _public_key(data: Mapping[str, bytes], where: str) -> bytes:
    try:
        public_key = bytes.fromhex(data.get("public-key", b"").decode(errors="replace"))
    except ValueError:
        public_key = b""
    if len(public_key) != 32:
        raise InvalidField(
            "holds neither a private nor a public key",
            field=where,
            remedy="restore the Secret, or raise spec.generation of the MembershipKey",
        )
    return public_key


def progress_text(progress: Progress) -> str:
    """Returns the progress of a rotation as the annotation keeps it."""
    return json.dumps(dataclasses.asdict(progress), sort_keys=True)


def _progress(text: str) -> Progress:
    """Returns the progress that an annotation keeps; one that cannot be read is lost, and the waits begin anew."""
    try:
        data = json.loads(text)
        return Progress(**data) if isinstance(data, dict) else Progress()
    except (ValueError, TypeError):
        return Progress()
