"""Streams whose protocol an actor speaks (protocol/service_messages.py), on a forwarder's connections.

A service says which protocols are its own.  From then on a stream that a peer opens for one of them is cut into
messages here, and these go to the service one by one: the next when it has answered.  It may open streams too, over a
connection that there is or one that is dialled for it.

What a peer may lay up: its window on each stream, ``MAX_BUFFERED`` bytes on all, ``MAX_STREAMS_PER_CONNECTION`` and
``MAX_STREAMS`` streams, each for as long as the service and the peer answer each other in time.  When there are so
many, the one that has said nothing for longest makes room for the next.

Streams of services are not handed over to another forwarder: they end, and their services ask again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from actors.client_streams import RESET, Proposal, say
from actors.deadlines import Deadlines
from actors.dialling import Dial, Dialling
from actors.extensions import Extensions
from actors.inbound_streams import OwnerFactory, QuietOwner, StreamOwner
from actors.links import Link, Links
from actors.refusals import STREAM_ERROR
from protocol import messages, service_messages
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.identity import Identity, PeerId
from protocol.service_messages import ForwarderReady, StreamAnswer, StreamMessage, StreamOver, StreamWanted
from protocol.wire import FrameReader, encode_uvarint, frame
from protocol.yamux import GoAway, Stream

#: Bytes of one message.  Twenty peers with their addresses are some 30 kB in the largest answers of the public DHT.
MAX_MESSAGE: Final = 128 * 1024

#: Bytes that wait on all streams for their services.  What brings more is reset.
MAX_BUFFERED: Final = 16 * 1024 * 1024

#: Streams that one peer may have open to services on a connection.  Implementations open one a request and few at once.
MAX_STREAMS_PER_CONNECTION: Final = 32

#: Streams of services in all.  Each costs about 2 kB; what waits on them is bounded by MAX_BUFFERED.
MAX_STREAMS: Final = 2048

#: Seconds between two messages of a peer, and for an answer of the service.  go-libp2p's DHT keeps a stream for the
#: next request for as long (dhtStreamIdleTimeout).
IDLE: Final = 60.0

#: Seconds until the first message of a stream that a peer opened: it has it, or it would not have opened the stream.
FIRST: Final = 10.0

#: Protocols that one service may speak.
MAX_PROTOCOLS: Final = 16

_NOT_HERE: Final = "the forwarder hands over"


class Request:
    """What a service asked for, until it has a stream."""

    __slots__ = ("dial", "end", "stream", "wanted")

    def __init__(self, wanted: StreamWanted, now: float) -> None:
        self.wanted = wanted
        self.end = now + wanted.timeout
        self.stream: Stream | None = None
        self.dial: Dial | None = None


class ServiceProposal(Proposal):
    """A stream of a request whose protocol the peer has not agreed to yet."""

    __slots__ = ()


class ServiceStream(QuietOwner):
    """A stream that is ``service``'s.  ``due``: it waits for the next message.  ``timeout``: seconds for that."""

    __slots__ = (
        "_reader", "_services", "due", "ended", "fixed", "number", "protocol", "request_id", "service", "timeout",
        "waiting",
    )  # fmt: skip

    def __init__(
        self, services: Services, stream: Stream, service: str, protocol: str, request: StreamWanted | None = None
    ) -> None:
        super().__init__(stream)
        self._services = services
        self._reader = FrameReader(MAX_MESSAGE)
        self.number = services.new_number()
        self.service = service
        self.protocol = protocol
        self.request_id = 0 if request is None else request.request_id
        self.fixed = 0 if request is None else request.fixed
        self.timeout = IDLE if request is None else request.timeout
        self.due = True
        self.ended = False
        self.waiting = 0

    def data_received(self, data: bytes) -> None:
        self._reader.receive_data(data)
        self.waiting += len(data)
        self._services.buffered(len(data), self)
        self.advance()

    def advance(self) -> None:
        """Pass on a message if one is due and there, or the end behind the last.  RemoteProtocolError, when it is
        over."""
        if not self.due:
            return
        try:
            payload = self._next()
        except RemoteProtocolError as error:
            self._services.over(self, "malformed", str(error))
            raise
        if payload is not None:
            self.due = False
            self._services.pass_on(self, payload)
        elif self.ended:
            self._services.over(self, *(("finished", "") if not self.waiting else ("malformed", "a cut message")))

    def _next(self) -> bytes | None:
        if not self.fixed:
            payload = self._reader.next_frame()
            if payload is not None:
                self.taken(len(encode_uvarint(len(payload))) + len(payload))
            return payload
        if self.waiting < self.fixed:
            return None
        data = self._reader.trailing_data()
        self._reader.receive_data(data[self.fixed :])
        self.taken(self.fixed)
        return data[: self.fixed]

    def taken(self, size: int) -> None:
        """The peer may send as much again."""
        self.waiting -= size
        self._services.buffered(-size, self)
        if not self.stream.closed:
            self.stream.session.consume(self.stream, size)

    def say(self, payload: bytes) -> None:
        say(self.stream, payload if self.fixed else frame(payload))

    def finished(self) -> None:
        self.ended = True
        self.advance()

    def was_reset(self) -> None:
        self._services.over(self, "reset", RESET)


#: Owners to whom an answer is of use that came together with the end of its stream.
LATE_READERS: Final = (ServiceStream, ServiceProposal)


class Services:
    """``names``: the services' actors.  ``served``: by protocol, what a stream is handed to: the forwarder's own table.
    ``post``: sends a message to an actor.  ``clock``: the time of this turn.  ``changed``: called when other protocols
    are served."""

    def __init__(
        self,
        forwarder: str,
        names: Sequence[str],
        identity: Identity,
        served: dict[str, OwnerFactory],
        links: Links,
        deadlines: Deadlines,
        randomness: Callable[[int], bytes],
        post: Callable[[str, messages.Message], None],
        clock: Callable[[], float],
        changed: Callable[[], None],
        refusals: Counter[str],
    ) -> None:
        self.dialling = Dialling(links, deadlines)
        self.extensions = Extensions()
        self._forwarder = forwarder
        self._names = tuple(names)
        self._identity = identity
        self._served = served
        self._own = frozenset(served)
        self._links = links
        self._deadlines = deadlines
        self._randomness = randomness
        self._post = post
        self._clock = clock
        self._changed = changed
        self._refusals = refusals
        self._spoken: dict[str, str] = {}
        #: Streams of peers that have said nothing yet, the oldest first.
        self._silent: dict[int, ServiceStream] = {}
        self._streams: dict[int, ServiceStream] = {}
        self._requests: set[Request] = set()
        self._buffered = 0
        self._away = False

    def __len__(self) -> int:
        return len(self._streams)

    def new_number(self) -> int:
        """Of a stream; another forwarder that takes the place of this one does not give it again."""
        return int.from_bytes(self._randomness(7), "big") | 1

    # What services say.

    def handle(self, message: service_messages.ServiceForwarderMessage) -> None:
        match message:
            case StreamWanted():
                self._open(message)
            case StreamAnswer(stream=number):
                if (stream := self._streams.get(number)) is not None:
                    self._answer(stream, message)
            case service_messages.StreamExtended(stream=number, addresses=addresses):
                if (stream := self._streams.get(number)) is not None:
                    self._extend(stream, addresses)
            case service_messages.ProtocolsServed(service=service, protocols=protocols):
                self._serve(service, protocols)

    def announce(self, addresses: Sequence[bytes], to: str = "", replaces: str = "") -> None:
        """Tell the services, or that one, that we are here; ``replaces``: in the place of another forwarder."""
        self._away = False
        for name in self._names:
            if to in ("", name):
                self._post(name, ForwarderReady(self._forwarder, tuple(addresses), replaces))

    def down(self, actor: str) -> None:
        """A service failed: its streams end, and until it is back nobody speaks its protocols."""
        if actor not in self._names:
            return
        for stream in [one for one in self._streams.values() if one.service == actor]:
            self._end(stream)
        for request in [one for one in self._requests if one.wanted.asker == actor]:
            self._drop(request)
        self._serve(actor, ())

    def leave(self) -> None:
        """What there is here is handed over, but for the streams of services: they end, and are not begun."""
        self._away = True
        for protocol in self._spoken:
            self._served.pop(protocol, None)
        self._spoken.clear()
        for request in list(self._requests):
            self._fail(request, "gone", _NOT_HERE)
        for stream in list(self._streams.values()):
            self.over(stream, "gone", _NOT_HERE)
        self.extensions.end_all()

    # What the forwarder says.

    def proved(self, link: Link) -> None:
        """A peer has proved who it is."""
        if link.dial is not None:
            self.dialling.proved(link)

    def lost(self, link: Link, reason: str) -> None:
        if link.dial is not None:
            self.dialling.lost(link, reason, self._clock())

    # Streams that peers open.

    def _serve(self, service: str, protocols: Sequence[str]) -> None:
        if self._away or service not in self._names:
            return
        wanted = [one for one in protocols[:MAX_PROTOCOLS] if self._spoken.get(one, service) == service]
        before = {one for one, owner in self._spoken.items() if owner == service}
        after = set(wanted) - self._own
        for protocol in before - after:
            del self._spoken[protocol], self._served[protocol]
        for protocol in after - before:
            self._spoken[protocol] = service
            self._served[protocol] = partial(self._asked, protocol)
        if before != after:
            self._changed()

    def _asked(self, protocol: str, stream: Stream) -> StreamOwner:
        owners = (one.owner for one in stream.session.streams.values())
        held = sum(isinstance(owner, ServiceStream) and not owner.request_id for owner in owners)
        if len(self._streams) >= MAX_STREAMS and self._silent:
            self.over(next(iter(self._silent.values())), "limit", "others have something to say")
        if held >= MAX_STREAMS_PER_CONNECTION or len(self._streams) >= MAX_STREAMS:
            raise RemoteProtocolError("too many streams of services", "max_service_streams")
        service = self._spoken.get(protocol)
        if service is None:
            raise RemoteProtocolError(f"{protocol} is no longer spoken here", "gone")
        owner = self._begin(ServiceStream(self, stream, service, protocol))
        self._silent[owner.number] = owner
        self._await(owner, self._clock() + FIRST)
        return owner

    def _begin(self, stream: ServiceStream) -> ServiceStream:
        self._streams[stream.number] = stream
        self._deadlines.cancel(stream.stream)
        self._await(stream, self._clock() + stream.timeout)
        return stream

    def _await(self, stream: ServiceStream, until: float) -> None:
        # Not by the wire's stream: what has come is passed on when that is closed.
        self._deadlines.set(stream, until, lambda _: self._late(stream))

    def _late(self, stream: ServiceStream) -> None:
        whose = "the peer" if stream.due else stream.service
        seconds = FIRST if stream.number in self._silent else stream.timeout
        self.over(stream, "timeout", f"{whose} said nothing in {seconds:g} s")

    def buffered(self, size: int, stream: ServiceStream) -> None:
        """So much more waits on ``stream``; RemoteProtocolError when that is too much in all, and it is over."""
        self._buffered += size
        if size > 0 and self._buffered > MAX_BUFFERED:
            reason = f"more than {MAX_BUFFERED} bytes wait for services"
            self.over(stream, "limit", reason)
            raise RemoteProtocolError(reason, "max_buffered")

    def pass_on(self, stream: ServiceStream, payload: bytes) -> None:
        link: Link = stream.stream.session.connection.owner
        self._silent.pop(stream.number, None)
        self._await(stream, self._clock() + stream.timeout)
        self._post(
            stream.service,
            StreamMessage(
                forwarder=self._forwarder,
                stream=stream.number,
                peer=link.peer.bytes,
                address=link.address,
                protocol=stream.protocol,
                payload=payload,
                request_id=stream.request_id,
                observed=link.remote,
                local=link.local,
                dialled=link.dialled,
            ),
        )

    def _answer(self, stream: ServiceStream, answer: StreamAnswer) -> None:
        if answer.reset:
            self._end(stream)
            if answer.release:
                _release(stream.stream.session.connection.owner)
            return
        if answer.payload is not None:
            stream.say(answer.payload)
        if answer.finish:
            _finish(stream.stream)
        stream.due = True
        self._await(stream, self._clock() + stream.timeout)
        try:
            stream.advance()
        except RemoteProtocolError as error:
            self._refusals[STREAM_ERROR + error.code] += 1

    def _extend(self, stream: ServiceStream, addresses: Sequence[bytes]) -> None:
        wire = stream.stream
        if stream.waiting or stream.ended or wire.closed or not self.extensions.begin(wire, addresses):
            self._end(stream)  # who says more before it has an answer breaks the protocol
            return
        del self._streams[stream.number]
        self._deadlines.cancel(stream)

    def over(self, stream: ServiceStream, code: str, reason: str) -> None:
        """It ends here, and its service is told; the peer too unless it has finished."""
        if self._streams.get(stream.number) is not stream:
            return
        link: Link = stream.stream.session.connection.owner
        peer = b"" if link.connection.peer is None else link.connection.peer.bytes
        told = StreamOver(
            self._forwarder, stream.number, peer, stream.protocol, code, reason, stream.request_id
        )  # fmt: skip
        self._end(stream, finish=code == "finished")
        self._post(stream.service, told)

    def _end(self, stream: ServiceStream, *, finish: bool = False) -> None:
        del self._streams[stream.number]
        self._silent.pop(stream.number, None)
        self._buffered -= stream.waiting
        stream.waiting = 0
        self._deadlines.cancel(stream)
        wire = stream.stream
        wire.owner = None
        if finish:
            _finish(wire)
        elif not wire.closed:
            wire.session.reset(wire)

    # Streams that services open.

    def _open(self, wanted: StreamWanted) -> None:
        request = Request(wanted, self._clock())
        self._requests.add(request)
        self._deadlines.set(
            request, request.end, lambda _: self._fail(request, "timeout", f"no answer in {wanted.timeout:g} s")
        )
        if self._away:
            self._fail(request, "gone", _NOT_HERE)
        elif wanted.asker not in self._names:
            self._fail(request, "limit", f"{wanted.asker} is no service of this node")
        elif len(self._streams) + len(self._requests) > MAX_STREAMS:
            self._fail(request, "limit", f"{MAX_STREAMS} streams of services are open")
        elif wanted.peer == self._identity.peer_id.bytes:
            self._fail(request, "peer", "that is this node itself")
        elif not wanted.fresh and (link := self._links.to(wanted.peer)) is not None:
            self._propose(request, link)
        else:
            self._dial(request)

    def _dial(self, request: Request) -> None:
        wanted = request.wanted
        try:
            expected = PeerId(wanted.peer) if wanted.peer else None
        except RemoteProtocolError as error:
            self._fail(request, "malformed", str(error))
            return

        def settled(link: Link | None, code: str, reason: str) -> None:
            request.dial = None
            if link is None:
                self._fail(request, code, reason)
            elif request in self._requests:
                self._propose(request, link)

        dial = self.dialling.begin(expected, wanted.addresses, settled, self._clock())
        if dial is None:
            self._fail(request, "limit", "too many peers are being dialled")
        elif request in self._requests:
            request.dial = dial

    def _propose(self, request: Request, link: Link) -> None:
        wanted = request.wanted
        try:
            stream = link.connection.session.open_stream()
        except LocalProtocolError as error:
            self._fail(request, "limit", str(error))
            return
        link.idle_since = None
        request.stream = stream

        def agreed(stream: Stream, protocol: str) -> StreamOwner:
            self._forget(request)
            # Now, not when it was asked for: others came meanwhile.
            owner = self._begin(ServiceStream(self, stream, wanted.asker, protocol, wanted))
            self._await(owner, request.end)
            stream.owner = owner
            if wanted.payload is not None:
                owner.say(wanted.payload)
            if wanted.finish:
                _finish(stream)
            return owner

        def failed(reason: str) -> None:
            self._fail(request, "reset" if reason == RESET else "protocol", reason)

        stream.owner = ServiceProposal(stream, (wanted.protocol,), agreed, failed)

    def _fail(self, request: Request, code: str, reason: str) -> None:
        if self._drop(request):
            wanted = request.wanted
            over = StreamOver(self._forwarder, 0, wanted.peer, wanted.protocol, code, reason, wanted.request_id)
            self._post(wanted.asker, over)

    def _drop(self, request: Request) -> bool:
        """False: it was settled before."""
        if not self._forget(request):
            return False
        if request.dial is not None:
            self.dialling.abandon(request.dial)
        if (stream := request.stream) is not None:
            stream.owner = None
            if not stream.closed:
                stream.session.reset(stream)
        return True

    def _forget(self, request: Request) -> bool:
        if request not in self._requests:
            return False
        self._requests.discard(request)
        self._deadlines.cancel(request)
        return True


def _finish(stream: Stream) -> None:
    """We say no more; the peer may have ended it meanwhile."""
    if not (stream.closed or stream.fin_sent or stream.fin_after_held):
        stream.session.finish(stream)


def _release(link: Link) -> None:
    """Close a connection that we opened, unless somebody uses it."""
    connection = link.connection
    if link.dialled and not (connection.session.streams or link.reserved_until or link.circuits):
        connection.close(GoAway.NORMAL)
        connection.mark_dirty()
