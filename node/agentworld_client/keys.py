"""Makes, reads and writes the key files of agents and operators: PKCS#8 Ed25519, readable by their owner alone."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from agentworld_core.errors import InvalidField, NotFound
from agentworld_core.signing import Ed25519Signer


def generate() -> Ed25519Signer:
    """Returns the signer of a new key, drawn from the system's randomness."""
    return Ed25519Signer(secrets.token_bytes(32))


def load(path: Path) -> Ed25519Signer:
    """Returns the signer of a key file; NotFound or InvalidField says what is wrong with it."""
    try:
        return Ed25519Signer.from_pem(path.read_bytes(), field=str(path))
    except FileNotFoundError as error:
        raise NotFound(
            "there is no such key file", field=str(path), remedy="make one with `agentworld keys generate`"
        ) from error
    except OSError as error:
        raise InvalidField(f"cannot be read: {error.strerror}", field=str(path)) from error


def save(signer: Ed25519Signer, path: Path, *, overwrite: bool = False) -> None:
    """Writes a key file with mode 0600, durably; refuses to overwrite one unless told to."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(signer.pem())
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            temporary.replace(path)
        else:
            os.link(temporary, path)
    except FileExistsError as error:
        raise InvalidField("exists already", field=str(path), remedy="choose another name, or --force") from error
    except OSError as error:
        raise InvalidField(f"cannot be written: {error.strerror}", field=str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
