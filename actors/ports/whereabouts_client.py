"""Asking a relay where a peer is reached, and having it say where we are (protocol/whereabouts.py)."""

from __future__ import annotations

import asyncio
from typing import Final

from actors.ports.connections import ClientError, PeerConnection, StreamError
from protocol import whereabouts
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId
from protocol.whereabouts import (
    Whereabouts,
    WhereaboutsKept,
    WhereaboutsMessage,
    WhereaboutsSaid,
    WhereaboutsTold,
    WhereaboutsWanted,
    open_whereabouts,
)
from protocol.wire import FrameReader, frame

#: Seconds for an answer: more than a relay gives its DHT.
TIMEOUT: Final = 20.0


async def ask_whereabouts(relay: PeerConnection, peer: PeerId, unix_now: float) -> Whereabouts:
    """Where ``peer`` says that it is reached: its own signed word.  ClientError: the relay does not know, or does not
    speak the protocol."""
    told = await _ask(relay, WhereaboutsWanted(peer.bytes))
    if not isinstance(told, WhereaboutsTold):
        raise ClientError(f"{relay.peer} answered something else than was asked")
    if not told.record:
        raise ClientError(f"{relay.peer} does not know where {peer} is reached: {_printable(told.problem)}")
    try:
        said = open_whereabouts(told.record, unix_now)
    except RemoteProtocolError as error:
        raise ClientError(f"what {relay.peer} says of where {peer} is reached does not hold: {error}") from error
    if said.peer != peer:
        raise ClientError(f"{relay.peer} was asked for {peer}, and told of {said.peer}")
    return said


async def say_whereabouts(relay: PeerConnection, record: bytes) -> int:
    """How many peers keep our ``record`` now.  ClientError."""
    told = await _ask(relay, WhereaboutsSaid(record))
    if not isinstance(told, WhereaboutsKept):
        raise ClientError(f"{relay.peer} answered something else than was asked")
    if not told.copies:
        raise ClientError(f"{relay.peer} published nothing: {_printable(told.problem)}")
    return told.copies


async def _ask(relay: PeerConnection, message: WhereaboutsMessage) -> WhereaboutsMessage:
    stream = None
    try:
        async with asyncio.timeout(TIMEOUT):
            stream = await relay.open(whereabouts.PROTOCOL, padded=False)
            await stream.write(frame(whereabouts.encode(message)))
            await stream.finish()
            reader = FrameReader(whereabouts.MAX_MESSAGE)
            while (payload := reader.next_frame()) is None:
                data = await stream.read()
                if not data:
                    raise StreamError(f"{relay.peer} gave no answer")
                reader.receive_data(data)
            return whereabouts.decode(payload)
    except TimeoutError:
        raise ClientError(f"no answer from {relay.peer} within {TIMEOUT:g} s") from None
    except RemoteProtocolError as error:
        raise ClientError(f"{relay.peer} broke the protocol: {error}") from error
    finally:
        if stream is not None:
            stream.reset()


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
