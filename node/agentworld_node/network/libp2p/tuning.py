"""Changes made to libp2p at run time, only when it is exactly the version they were written and measured for.

With any other version libp2p stays as it is: slower, and with its queues of 32, but correct.
"""

from __future__ import annotations

import importlib.metadata

_VERSION = "0.8.1"


def apply() -> bool:
    """Makes the changes, once per process; False when the version is another."""
    return importlib.metadata.version("libp2p") == _VERSION
