"""How an actor speaks a libp2p protocol over the node's own connections.

A *service* is an actor that speaks protocols whose streams end at this node: Kademlia, AutoNAT, probes.  It has no
sockets.  A forwarder owns the connections; it negotiates the stream, cuts what comes into messages, and passes them on
one by one.  The next is read only when the service has answered the one before, so a peer that floods a stream holds
nothing but its own window.  Streams are numbered by their forwarder; (forwarder, stream) is unique.

    a peer asks:     StreamMessage -> StreamAnswer, any number of times; then StreamOver
    a service says:  ProtocolsServed, to each forwarder that is ready
    a service asks:  StreamWanted -> StreamMessage (with its request_id), then as above; or StreamOver at once
"""

from __future__ import annotations

from protocol.message_base import Message

# Forwarder -> service


class ForwarderReady(Message, frozen=True):
    """``forwarder`` takes StreamWanted from now on, and wants to be told which protocols are yours (ProtocolsServed).
    ``addresses``: where peers reach the node, binary multiaddrs without /p2p.  ``replaces``: the forwarder in whose
    place it is, and whose streams are over; those who have it as ``forwarder`` go on with this one."""

    forwarder: str
    addresses: tuple[bytes, ...]
    replaces: str = ""


class StreamMessage(Message, frozen=True):
    """``peer`` sent ``payload``: one length-prefixed message, without its prefix, or ``fixed`` bytes.

    ``address``: the remote IP, as text.  ``observed``: the remote end, a binary multiaddr.  ``local``: our end of that
    connection.  ``dialled``: we opened the connection.  ``request_id``: of the StreamWanted that opened the stream, 0
    when the peer opened it."""

    forwarder: str
    stream: int
    peer: bytes
    address: str
    protocol: str
    payload: bytes
    request_id: int = 0
    observed: bytes = b""
    local: bytes = b""
    dialled: bool = False


class StreamOver(Message, frozen=True):
    """Nothing more comes on the stream, and it is forgotten: said once of each, but not when you reset it.

    ``reason``: "" when the peer finished it; otherwise what went wrong, in words.  ``stream`` is 0 when it did not
    come to be.  ``code``: one word for programs: ``finished``, ``reset``, ``dial``, ``peer`` (another peer answered),
    ``protocol`` (the peer does not speak it), ``timeout``, ``limit``, ``malformed``, ``gone``."""

    forwarder: str
    stream: int
    peer: bytes
    protocol: str
    code: str
    reason: str = ""
    request_id: int = 0


# Service -> forwarder


class ProtocolsServed(Message, frozen=True):
    """Streams that peers open for ``protocols`` are ``service``'s from now on, and of no others."""

    service: str
    protocols: tuple[str, ...]


class StreamWanted(Message, frozen=True):
    """Open a stream of ``protocol`` to ``peer`` for ``asker`` and send ``payload`` on it, length-prefixed; None: send
    nothing, the peer speaks first.

    Over a connection that there is, else by dialling ``addresses`` (binary multiaddrs without /p2p; TCP over IP is
    dialled, the others are skipped).  ``fresh``: dial anyway.  ``peer`` b"": dial, and take whoever answers.
    ``timeout``: seconds until the first message has come; after that, between two.  ``fixed``: bytes of each message
    of a protocol without length prefixes (ping), both ways; 0: length-prefixed.  ``finish``: we say no more."""

    request_id: int
    asker: str
    peer: bytes
    addresses: tuple[bytes, ...]
    protocol: str
    payload: bytes | None
    timeout: float = 10.0
    fixed: int = 0
    finish: bool = False
    fresh: bool = False


class StreamAnswer(Message, frozen=True):
    """Send ``payload`` (None: nothing) and take the next message.  ``finish``: we say no more; ``reset``: end it.
    ``release``: and the connection with it, if we dialled that and nothing else uses it."""

    stream: int
    payload: bytes | None
    finish: bool = False
    reset: bool = False
    release: bool = False


class StreamExtended(Message, frozen=True):
    """The stream is joined to a TCP connection to ``addresses``, binary multiaddrs, the first that answers."""

    stream: int
    addresses: tuple[bytes, ...]


ServiceMessage = ForwarderReady | StreamMessage | StreamOver

ServiceForwarderMessage = ProtocolsServed | StreamWanted | StreamAnswer | StreamExtended
