"""Extending a circuit: a peer asks a relay for a way on to another relay.

    peer -> relay   ExtendWanted: to that relay      -> ExtendTold, "": the stream's bytes are those of a TCP connection
                                                        to it from here on;  else why not, and the stream ends

What passes is a whole libp2p connection of the peer's, Noise and all, so this relay sees nothing of it but its size.
The other one is any relay: it need not know of this protocol, and sees a connection from here.  The relay is named by
its peer id and must be one that this relay knows, for else it would be a proxy to anywhere.

Source: ours.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

from protocol.codec import decode_untrusted

PROTOCOL: Final = "/descord/extend/1.0.0"

#: Bytes of a message.
MAX_MESSAGE: Final = 512


class ExtendWanted(msgspec.Struct, frozen=True, array_like=True, tag="extend"):
    """``relay``: its peer id."""

    relay: Annotated[bytes, Meta(min_length=2, max_length=64)]


class ExtendTold(msgspec.Struct, frozen=True, array_like=True, tag="extended"):
    """``problem``: why there is none, for a person; "": it is there."""

    problem: Annotated[str, Meta(max_length=256)] = ""


ExtendMessage = ExtendWanted | ExtendTold


def encode(message: ExtendMessage) -> bytes:
    """As it is on the stream, without its length."""
    return msgspec.msgpack.encode(message)


def decode(data: bytes) -> ExtendMessage:
    """RemoteProtocolError whatever is wrong with it."""
    message: ExtendMessage = decode_untrusted(data, ExtendMessage, MAX_MESSAGE)  # type: ignore[arg-type]
    return message
