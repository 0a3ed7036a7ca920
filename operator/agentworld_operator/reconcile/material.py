"""Private keys and identities: made once, stored before they are used, never overwritten."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from agentworld_core.errors import InvalidField
from agentworld_core.membership.rotation import Progress
from agentworld_core.names import peer_id_of
from agentworld_core.signing import Ed25519Signer
from agentworld_core.topology.resources import MembershipKey, Metadata, Validator
from agentworld_operator.kube.port import KubeApi
from agentworld_operator.plan import files
from agentworld_operator.plan.keys import (
    PROGRESS,
    SPEC_GENERATION,
    HeldKeys,
    progress_text,
    read_keys,
    read_private_key,
)
from agentworld_operator.reconcile.apply import Applier
from agentworld_operator.resources import names
from agentworld_operator.resources.objects import Object, data_of


def new_signer() -> Ed25519Signer:
    """Returns a key drawn from the system's randomness."""
    return Ed25519Signer(os.urandom(32))


class Material:
    """The keys and identities of one world during one reconcile; what cannot be used is in ``problems`` by resource."""

    def __init__(self, kube: KubeApi, applier: Applier, world: Metadata):
        self._kube = kube
        self._applier = applier
        self._world = world
        self.held: dict[str, HeldKeys] = {}
        self.identities: dict[str, bytes] = {}
        self.problems: dict[str, InvalidField] = {}

    def read(self, keys: Sequence[MembershipKey]) -> None:
        """Reads all generations of the keys from their Secrets."""
        self.held = read_keys([key.name for key in keys], self._applier.ours("Secret"))
        for name, ring in self.held.items():
            if ring.problems:
                self.problems[f"MembershipKey {name}"] = ring.problems[0]

    async def ensure_first(self, keys: Sequence[MembershipKey], generations: Mapping[str, int]) -> None:
        """Makes the wanted generation of every key that has none that could be used."""
        for key in keys:
            held = self.held.get(key.name)
            # A Secret that cannot be read may hold the very key that nodes trust: never put another in its place.
            if held is not None and not held.usable and not held.problems:
                await self.make(key, generations.get(key.name, key.spec.generation))

    def _is_lost(self, key: MembershipKey) -> bool:
        """True when a governance key has signed before and no Secret of it is left: no other could replace it."""
        config = self._applier.ours("ConfigMap").get(names.membership_config(self._world.name))
        noted = governance_active(config, key.name)
        if key.spec.purpose != "Governance" or not noted or self.held[key.name].keys:
            return False
        self.problems[f"MembershipKey {key.name}"] = InvalidField(
            "has lost the Secret of its key",
            field=f"Secret {names.key_secret(key.name, key.spec.generation)}",
            value=noted,
            remedy="restore it from a backup: without it no directory or revocation can be signed",
        )
        return True

    async def make(self, key: MembershipKey, generation: int) -> None:
        """Makes one generation of a key, from the person's own Secret when there is one."""
        if self._is_lost(key):
            return
        try:
            signer = await self._own_key(key) if key.spec.secret else new_signer()
        except InvalidField as error:
            self.problems[f"MembershipKey {key.name}"] = error
            return
        desired = files.key_secret(self._world, key.name, generation, signer)
        desired["metadata"]["annotations"][SPEC_GENERATION] = str(key.spec.generation)
        await self._applier.create(desired)
        self.read_again(key.name)

    async def keep_progress(self, name: str, progress: Progress) -> None:
        """Stores what a rotation has to remember with the newest generation, when it changed."""
        newest = self.held[name].newest
        if newest is None or newest.progress == progress:
            return
        live = self._applier.live("Secret", newest.secret)
        if live is not None:
            await self._applier.annotate(live, {PROGRESS: progress_text(progress)})
            self.read_again(name)

    async def destroy(self, name: str, key_ids: Sequence[str]) -> None:
        """Removes the private half of keys that nothing trusts any more; the public half stays as a record."""
        for key in self.held[name].usable:
            live = self._applier.live("Secret", key.secret)
            if key.key_id in key_ids and live is not None:
                await self._applier.patch(live, {"data": {files.PRIVATE_KEY: None}})
        self.read_again(name)

    async def identity(self, validator: Validator) -> None:
        """Makes the network identity of a validator, or reads the one that a person brought."""
        reference = validator.spec.identity
        try:
            if reference is not None:
                secret = await self._secret(reference.name, f"Validator {validator.name} spec.identity.secretRef")
                signer = read_private_key(secret, reference.key, where=f"Secret {reference.name}")
            else:
                desired = files.identity_secret(self._world, validator.name, new_signer())
                stored = await self._applier.create(desired)
                if stored is None:
                    return
                where = f"Secret {names.identity_secret(validator.name)}"
                signer = read_private_key(stored, files.IDENTITY_FILE, where=where)
        except InvalidField as error:
            self.problems[f"Validator {validator.name}"] = error
            return
        self.identities[validator.name] = signer.public_key

    @property
    def peer_ids(self) -> dict[str, str]:
        """The network identities that are known, by validator."""
        return {name: peer_id_of(public_key) for name, public_key in self.identities.items()}

    def read_again(self, name: str) -> None:
        """Takes up what was just written about one key."""
        self.held.update(read_keys([name], self._applier.ours("Secret")))

    async def _own_key(self, key: MembershipKey) -> Ed25519Signer:
        reference = key.spec.secret
        if reference is None:
            return new_signer()
        secret = await self._secret(reference.name, f"MembershipKey {key.name} spec.secretRef")
        signer = read_private_key(secret, reference.key, where=f"Secret {reference.name}")
        if self.held[key.name].by_id(signer.key_id):
            raise InvalidField(
                "holds the key of an earlier generation",
                field=f"Secret {reference.name}",
                value=signer.key_id,
                remedy="put a new key into another Secret and name it in spec.secretRef",
            )
        return signer

    async def _secret(self, name: str, field: str) -> Object:
        secret = await self._kube.get("Secret", self._world.namespace, name)
        if secret is None:
            raise InvalidField("names a Secret that does not exist", field=field, value=name, remedy="create it")
        return secret


class KeyFolders:
    """What each validator's pod finds in its key folder: the keys it may sign with, and which of them it should."""

    def __init__(self, applier: Applier, world: Metadata):
        self._applier = applier
        self._world = world

    def active(self, validator: str) -> str:
        """Returns the key id that the validator is told to sign with, empty when it was told nothing yet."""
        live = self._applier.live("Secret", names.key_folder_secret(validator))
        return data_of(live).get("active", b"").decode(errors="replace").strip() if live else ""

    async def ensure(self, validator: str, held: HeldKeys, active: str) -> None:
        """Makes the folder hold all usable keys of a MembershipKey, with one of them active."""
        usable = {item.number: item.signer for item in held.usable if item.signer is not None}
        if active not in [item.key_id for item in held.usable]:
            # The Secret of the active key cannot be read: the folder still has it, so leave the folder alone.
            return
        await self._applier.ensure(files.key_folder_secret(self._world, validator, usable, active))

    def revision(self, validator: str) -> str:
        """Returns a word that changes whenever the folder does."""
        live = self._applier.live("Secret", names.key_folder_secret(validator))
        if live is None:
            return ""
        return f"{'.'.join(sorted(data_of(live)))}.{self.active(validator)[:8]}"


def governance_active(config: Object | None, key: str) -> str:
    """Returns the key id that a governance key is at, as noted in the membership ConfigMap."""
    return str((config.get("data") or {}).get(key, "")) if config else ""
