"""What the state of a world holds, under which keys, and in which form.

=====================================  ==========================================================================
``meta``                               tick, time and next event id (``Meta``)
``world``                              world id and genesis hash
``agent/<id>``                         key, position and mailbox counters of an agent (``AgentRecord``)
``nonce/<actor id>/<key id>``          which nonces the actor has used with that key (``NonceWindow``)
``mail/<id>/<seq, 20 digits>``         one message waiting for an agent (``MailRecord``)
``object/<id>``                        owner, version and data of an object (``ObjectRecord``)
``directory/<epoch, 20 digits>``       hash and first height of a directory epoch (``DirectoryRecord``)
=====================================  ==========================================================================

What modules and their governance add is listed in ``modules.records``.

Keys are ASCII, values are the deterministic encoding of maps. Nonces are kept per actor *and* key, so that an action
signed with a wrong key uses up nothing of the actor's, and still counts only once.
"""

from __future__ import annotations

import dataclasses
from typing import Protocol, TypeVar

import cbor2

from agentworld_core.codec import Value, encode_value
from agentworld_core.errors import MalformedEncoding
from agentworld_core.world.nonces import NonceWindow, fields_of, of_size

META_KEY = b"meta"
WORLD_KEY = b"world"
MAIL_PREFIX = b"mail/"


def agent_key(agent_id: str) -> bytes:
    """Returns the state key of an agent."""
    return b"agent/" + agent_id.encode()


def nonce_key(actor_id: str, key_id: str) -> bytes:
    """Returns the state key of the nonces that an actor has used with a key."""
    return f"nonce/{actor_id}/{key_id}".encode()


def mail_key(agent_id: str, sequence: int) -> bytes:
    """Returns the state key of one message of an agent's mailbox."""
    return f"mail/{agent_id}/{sequence:020d}".encode()


def mailbox_prefix(agent_id: str) -> bytes:
    """Returns the prefix of the state keys of an agent's mailbox."""
    return f"mail/{agent_id}/".encode()


def object_key(object_id: str) -> bytes:
    """Returns the state key of an object."""
    return b"object/" + object_id.encode()


def directory_key(epoch: int) -> bytes:
    """Returns the state key of a directory epoch."""
    return f"directory/{epoch:020d}".encode()


class Reader(Protocol):
    """Where state is read from: a tree, a draft, or values that were proved."""

    def get(self, key: bytes) -> bytes | None:
        """Returns the value of a key, or None."""
        ...


class Record(Protocol):
    """A value of the state in its typed form."""

    def to_value(self) -> Value:
        """Returns the map that is encoded into the state."""
        ...

    @classmethod
    def from_value(cls: type[_R], value: Value) -> _R:
        """Returns the record of a map; raises MalformedEncoding for anything else."""
        ...


_R = TypeVar("_R", bound=Record)


@dataclasses.dataclass(frozen=True, slots=True)
class Meta:
    """The counters of the world."""

    tick: int
    time_ms: int
    next_event: int

    def to_value(self) -> Value:
        return {"tick": self.tick, "time_ms": self.time_ms, "next_event": self.next_event}

    @classmethod
    def from_value(cls, value: Value) -> Meta:
        tick, time_ms, next_event = fields_of(value, ("tick", "time_ms", "next_event"))
        if type(tick) is type(time_ms) is type(next_event) is int:
            return cls(tick, time_ms, next_event)
        raise MalformedEncoding("is not the meta record", field="meta")


@dataclasses.dataclass(frozen=True, slots=True)
class WorldRecord:
    """Which world this is; it binds the state root to the genesis document."""

    world_id: str
    genesis_hash: str

    def to_value(self) -> Value:
        return {"world_id": self.world_id, "genesis_hash": self.genesis_hash}

    @classmethod
    def from_value(cls, value: Value) -> WorldRecord:
        match of_size(value, 2):
            case {"world_id": str(world_id), "genesis_hash": str(genesis_hash)}:
                return cls(world_id, genesis_hash)
        raise MalformedEncoding("is not the world record", field="world")


@dataclasses.dataclass(frozen=True, slots=True)
class AgentRecord:
    """An agent: the key that signs for it, where it stands, and the mailbox ``mail_first <= sequence < mail_next``."""

    public_key: bytes
    x: int
    y: int
    mail_first: int = 1
    mail_next: int = 1

    def to_value(self) -> Value:
        return {
            "position": [self.x, self.y],
            "mail_next": self.mail_next,
            "mail_first": self.mail_first,
            "public_key": self.public_key,
        }

    @classmethod
    def from_value(cls, value: Value) -> AgentRecord:
        position, following, first, key = fields_of(value, ("position", "mail_next", "mail_first", "public_key"))
        if type(position) is list and len(position) == 2 and type(key) is bytes:
            x, y = position
            if type(x) is type(y) is type(first) is type(following) is int:
                return cls(key, x, y, first, following)
        raise MalformedEncoding("is not an agent record", field="agent")


@dataclasses.dataclass(frozen=True, slots=True)
class MailRecord:
    """A message in a mailbox and the tick at which it arrived."""

    sender: str
    body: Value
    tick: int

    def to_value(self) -> Value:
        return {"from": self.sender, "body": self.body, "tick": self.tick}

    @classmethod
    def from_value(cls, value: Value) -> MailRecord:
        match of_size(value, 3):
            case {"from": str(sender), "body": body, "tick": int(tick)}:
                return cls(sender, body, tick)
        raise MalformedEncoding("is not a mail record", field="mail")


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectRecord:
    """An object: who may change it, how often that happened, and what it holds."""

    owner: str
    version: int
    data: Value

    def to_value(self) -> Value:
        return {"owner": self.owner, "version": self.version, "data": self.data}

    @classmethod
    def from_value(cls, value: Value) -> ObjectRecord:
        match of_size(value, 3):
            case {"owner": str(owner), "version": int(version), "data": data}:
                return cls(owner, version, data)
        raise MalformedEncoding("is not an object record", field="object")


@dataclasses.dataclass(frozen=True, slots=True)
class DirectoryRecord:
    """The unsigned id of a directory epoch and the first height that it governs."""

    directory_hash: str
    effective_height: int

    def to_value(self) -> Value:
        return {"directory_hash": self.directory_hash, "effective_height": self.effective_height}

    @classmethod
    def from_value(cls, value: Value) -> DirectoryRecord:
        match of_size(value, 2):
            case {"directory_hash": str(found), "effective_height": int(height)}:
                return cls(found, height)
        raise MalformedEncoding("is not a directory record", field="directory")


def read(reader: Reader, key: bytes, kind: type[_R]) -> _R | None:
    """Returns the record of a kind under a key, or None; raises MalformedEncoding when something else is there."""
    data = reader.get(key)
    if data is None:
        return None
    try:
        # What is in a state was encoded here or is proved by its root; to check it again would cost more than the rest.
        value = cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError) as error:
        raise MalformedEncoding("is not an encoded value", field=key.decode()) from error
    return kind.from_value(value)


def encode_record(record: Record) -> bytes:
    """Returns the deterministic encoding of a record.

    Records without data of others give their maps in canonical order already, and need not be sorted and checked again.
    """
    if isinstance(record, AgentRecord | NonceWindow | Meta):
        return cbor2.dumps(record.to_value())
    return encode_value(record.to_value())


def read_agent(reader: Reader, agent_id: str) -> AgentRecord | None:
    """Returns an agent, or None when it is not registered."""
    return read(reader, agent_key(agent_id), AgentRecord)


def read_object(reader: Reader, object_id: str) -> ObjectRecord | None:
    """Returns an object, or None when there is none."""
    return read(reader, object_key(object_id), ObjectRecord)


def read_nonces(reader: Reader, actor_id: str, key_id: str) -> NonceWindow:
    """Returns which nonces the actor has used with the key."""
    return read(reader, nonce_key(actor_id, key_id), NonceWindow) or NonceWindow()


def read_meta(reader: Reader) -> Meta:
    """Returns the counters of the world; raises MalformedEncoding for a state without them."""
    meta = read(reader, META_KEY, Meta)
    if meta is None:
        raise MalformedEncoding("is not the state of a world", field="meta")
    return meta


class Draft:
    """A state being changed: records on top of a tree, each decoded once and encoded once however often it changes."""

    def __init__(self, base: Reader):
        self._base = base
        self._records: dict[bytes, Record | None] = {}
        self._changed: dict[bytes, Record | None] = {}

    def record(self, key: bytes, kind: type[_R]) -> _R | None:
        """Returns the record of a kind under a key as it is now, or None."""
        if key in self._records:
            found = self._records[key]
            if found is not None and not isinstance(found, kind):
                raise MalformedEncoding(f"is not a {kind.__name__}", field=key.decode())
            return found
        loaded = read(self._base, key, kind)
        self._records[key] = loaded
        return loaded

    def put(self, key: bytes, record: Record | None) -> None:
        """Sets the record under a key; None removes it."""
        self._records[key] = record
        self._changed[key] = record

    def changes(self) -> dict[bytes, bytes | None]:
        """Returns the encoded values of all keys that were set or removed."""
        return {key: None if record is None else encode_record(record) for key, record in self._changed.items()}
