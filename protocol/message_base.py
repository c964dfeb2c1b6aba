"""What every message between actors is."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Immutable, and told apart by the name of its type.  Fields are added at the end, with a default."""
