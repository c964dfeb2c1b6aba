"""AutonatServer: it tells peers whether they can be reached, by dialling them (protocol/autonat.py).

    DialRequest ─► limits ─► the first address that may be dialled ─► dial data, and a random pause, when that is not
    where the peer is seen ─► StreamWanted: a fresh connection to that address and the nonce on it ─► DialResponse

Whoever asks has others dialled, so it counts whom: requests of one peer, of one household and in all, dials of one
third party, and what is under way.  It is a part of Reachability (actors/reachability.py), and sends by its ``sends``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from actors.actor import Send
from actors.dial_policy import may_dial
from actors.rate_limit import KeyedBuckets, TokenBucket
from actors.reservations import household, plain
from protocol import autonat
from protocol.addresses import decode_tcp
from protocol.autonat import DialDataRequest, DialDataResponse, DialRequest, DialResponse, DialStatus, ResponseStatus
from protocol.errors import RemoteProtocolError
from protocol.service_messages import StreamAnswer, StreamMessage, StreamOver, StreamWanted

#: Requests a second in all, of one household and of one peer, and how many at once: go-libp2p's 60 and 12 a minute.
RATE: Final = 1.0
AT_ONCE: Final = 60.0
RATE_OF_ONE: Final = 0.2
AT_ONCE_OF_ONE: Final = 12.0

#: Requests a second for dials of third parties: in all, as go-libp2p's, and of one household that is dialled.  An
#: honest third party is the asker's other address.
DATA_RATE: Final = 0.2
DATA_AT_ONCE: Final = 12.0
TARGET_RATE: Final = 1 / 30
TARGET_AT_ONCE: Final = 3.0

#: Households and peers whose rate is remembered.
MAX_RATE_KEYS: Final = 8192

#: Requests under way: in all, of one household, of one peer (go-libp2p's client has one at a time).
MAX_JOBS: Final = 32
MAX_JOBS_OF_HOUSEHOLD: Final = 4
MAX_JOBS_OF_PEER: Final = 2

#: Seconds for the data.  go-libp2p's client gives up 15 s after its request.
DATA_TIME: Final = 10.0

#: Seconds, at most, between the data and the dial, so that many servers do not dial a third party at the same moment.
MAX_PAUSE: Final = 3.0

#: Seconds for the dial, the nonce and its receipt.
DIAL_TIME: Final = 10.0

#: Bytes of data in a message that is not the last: less of them is work for nothing.
LEAST_CHUNK: Final = 100

#: Streams that were answered and that their peers have not ended; the forwarder ends them after a minute.
MAX_ANSWERED: Final = 1024

#: What it says of a dial that failed, by StreamOver's code: "If the server was unable to connect to the client".
_NOT_CONNECTED: Final = ("dial", "peer", "timeout", "malformed")
_OUR_FAULT: Final = ("gone", "limit")

_Stream = tuple[str, int]
_Ip = IPv4Address | IPv6Address


@dataclass(slots=True)
class _Job:
    """``owed``: bytes of data that are to come.  ``until``: when it ends, or when it dials if ``pausing``.
    ``request_id``: of the dial, 0: not yet."""

    stream: _Stream
    peer: bytes
    home: str
    address: bytes
    index: int
    nonce: int
    owed: int
    until: float
    pausing: bool = False
    request_id: int = 0


class AutonatServer:
    """``name``: of the actor it is part of.  ``randomness(n)``: n random bytes.  ``private``: addresses of private
    networks are dialled too.

    ``own``: this node's addresses, binary multiaddrs.  ``sends``: to be taken.  ``counts``: answers by kind."""

    def __init__(self, name: str, randomness: Callable[[int], bytes], counts: Counter[str], *, private: bool) -> None:
        self.own: Sequence[bytes] = ()
        self.sends: list[Send] = []
        self.counts = counts
        self._name = name
        self._randomness = randomness
        self._private = private
        self._jobs: dict[_Stream, _Job] = {}
        self._dials: dict[int, _Job] = {}
        self._answered: dict[_Stream, None] = {}
        self._next = 1
        self._rate: TokenBucket | None = None
        self._data_rate: TokenBucket | None = None
        self._homes = KeyedBuckets(RATE_OF_ONE, AT_ONCE_OF_ONE, MAX_RATE_KEYS)
        self._peers = KeyedBuckets(RATE_OF_ONE, AT_ONCE_OF_ONE, MAX_RATE_KEYS)
        self._targets = KeyedBuckets(TARGET_RATE, TARGET_AT_ONCE, MAX_RATE_KEYS)

    def __len__(self) -> int:
        return len(self._jobs)

    # What peers say on streams that they opened.

    def asked(self, message: StreamMessage, now: float) -> None:
        """A message on a dial-request stream."""
        stream = (message.forwarder, message.stream)
        try:
            if stream in self._answered:
                raise RemoteProtocolError("a request is a stream of its own", "second")
            job = self._jobs.get(stream)
            if job is None:
                self._request(stream, message, now)
            else:
                self._data(job, autonat.decode(message.payload), now)
        except RemoteProtocolError as error:
            self.counts[f"refused: {error.code}"] += 1
            self._forget(stream)
            self._answered.pop(stream, None)
            self.sends.append(Send(message.forwarder, StreamAnswer(message.stream, None, reset=True)))

    def asker_gone(self, stream: _Stream) -> None:
        """It has ended its stream."""
        self._answered.pop(stream, None)
        self._forget(stream)

    def _request(self, stream: _Stream, message: StreamMessage, now: float) -> None:
        home = household(message.address)
        if not self._room(message.peer, home, now):
            self._answer(stream, DialResponse(ResponseStatus.REQUEST_REJECTED))
            return
        request = autonat.decode(message.payload)
        if not isinstance(request, DialRequest):
            raise RemoteProtocolError("a stream that begins with no DialRequest", "autonat")
        seen = _ip(message.address)
        chosen = self._choose(request, seen)
        if chosen is None:
            self._answer(stream, DialResponse(ResponseStatus.DIAL_REFUSED))
            return
        index, address, ip = chosen
        job = _Job(stream, message.peer, home, address, index, request.nonce, 0, now + DATA_TIME)
        if ip == seen:
            self._jobs[stream] = job
            self._dial(job)
        elif self._may_dial_other(household(str(ip)), now):
            span = autonat.MOST_DATA - autonat.LEAST_DATA
            job.owed = autonat.LEAST_DATA + int(self._random() * span)
            self._jobs[stream] = job
            self._say(stream, autonat.encode(DialDataRequest(index, job.owed)))
        else:
            self._answer(stream, DialResponse(ResponseStatus.REQUEST_REJECTED))

    def _choose(self, request: DialRequest, seen: _Ip | None) -> tuple[int, bytes, _Ip] | None:
        """(index, address, its IP): "The server SHOULD use the first address it is willing to dial"."""
        for index, address in enumerate(request.addresses):
            if (ip := self._dialable(address, seen)) is not None:
                return index, address, ip
        return None

    def _room(self, peer: bytes, home: str, now: float) -> bool:
        """Whether one more request may be looked at.  Strangers have peer ids for nothing, and households not."""
        if self._rate is None or self._data_rate is None:
            self._rate = TokenBucket(RATE, AT_ONCE, now)
            self._data_rate = TokenBucket(DATA_RATE, DATA_AT_ONCE, now)
        jobs = self._jobs.values()
        return (
            len(self._jobs) < MAX_JOBS
            and sum(job.home == home for job in jobs) < MAX_JOBS_OF_HOUSEHOLD
            and sum(job.peer == peer for job in jobs) < MAX_JOBS_OF_PEER
            and self._homes.take(home, now)
            and self._peers.take(peer, now)
            and self._rate.take(now)
        )

    def _may_dial_other(self, target: str, now: float) -> bool:
        return self._targets.take(target, now) and self._data_rate is not None and self._data_rate.take(now)

    def _dialable(self, address: bytes, seen: _Ip | None) -> _Ip | None:
        """Its IP, None: not dialled.  Our own host is nobody's but of who is there; and where we have no addresses of
        an IP version, a failure would say nothing of the peer."""
        found = decode_tcp(address)
        if found is None or not may_dial(address, private=self._private):
            return None
        ip = ip_address(found[0])
        ours = [ip_address(one[0]) for own in self.own if (one := decode_tcp(own)) is not None]
        if ip in ours and ip != seen:
            return None
        if ip.version == 6 and not any(one.version == 6 and (one.is_global or self._private) for one in ours):
            return None
        if ip.version == 4 and ours and all(one.version == 6 for one in ours):
            return None
        return ip

    def _data(self, job: _Job, message: autonat.AutonatMessage, now: float) -> None:
        if not isinstance(message, DialDataResponse) or job.owed <= 0:
            raise RemoteProtocolError("no dial data, or more than was asked for", "autonat")
        job.owed -= len(message.data)
        if job.owed > 0:
            if len(message.data) < LEAST_CHUNK:
                raise RemoteProtocolError(f"dial data in pieces of {len(message.data)} bytes", "autonat")
            self._say(job.stream, None)
        else:
            # It says no more until it is answered, so nothing is read of it.
            job.pausing, job.until = True, now + self._random() * MAX_PAUSE

    # What we dial.

    def _dial(self, job: _Job) -> None:
        job.request_id, self._next = self._next, self._next + 1
        job.pausing = False
        self._dials[job.request_id] = job
        wanted = StreamWanted(
            job.request_id,
            self._name,
            job.peer,
            (job.address,),
            autonat.DIAL_BACK,
            autonat.encode_dial_back(job.nonce),
            timeout=DIAL_TIME,
            finish=True,
            fresh=True,
        )
        self.sends.append(Send(job.stream[0], wanted))

    def received(self, message: StreamMessage) -> None:
        """A dialled peer's receipt of the nonce.  Whatever it says, it has it."""
        over = StreamAnswer(message.stream, None, reset=True, release=True)
        self.sends.append(Send(message.forwarder, over))
        self._dialled(message.request_id, DialStatus.OK)

    def dial_over(self, message: StreamOver) -> None:
        """The dial failed, or its stream is over without a receipt."""
        if message.stream:
            # Some end the stream instead of saying that they have the nonce; a reset says that it is not theirs.
            dialled = DialStatus.OK if message.code == "finished" else DialStatus.DIAL_BACK_ERROR
        elif message.code in _OUR_FAULT:
            dialled = None
        else:
            dialled = DialStatus.DIAL_ERROR if message.code in _NOT_CONNECTED else DialStatus.DIAL_BACK_ERROR
        self._dialled(message.request_id, dialled)

    def _dialled(self, request_id: int, dialled: DialStatus | None) -> None:
        job = self._dials.pop(request_id, None)
        if job is None or self._jobs.pop(job.stream, None) is None:
            return
        if dialled is None:
            self._answer(job.stream, DialResponse(ResponseStatus.INTERNAL_ERROR))
        else:
            self._answer(job.stream, DialResponse(ResponseStatus.OK, job.index, dialled))

    # Time, and forwarders.

    def next_deadline(self) -> float | None:
        return min((job.until for job in self._jobs.values() if not job.request_id), default=None)

    def handle_deadline(self, now: float) -> None:
        for job in [job for job in self._jobs.values() if not job.request_id and job.until <= now]:
            if job.pausing:
                self._dial(job)
            else:
                self.counts["refused: slow"] += 1
                self._forget(job.stream)
                self.sends.append(Send(job.stream[0], StreamAnswer(job.stream[1], None, reset=True)))

    def forwarder_lost(self, forwarder: str) -> None:
        """All of its streams are over."""
        for stream in [one for one in (*self._jobs, *self._answered) if one[0] == forwarder]:
            self.asker_gone(stream)

    def _answer(self, stream: _Stream, response: DialResponse) -> None:
        told = response.status if response.status is not ResponseStatus.OK else response.dial
        self.counts[f"answered {type(told).__name__} {told.name}"] += 1
        self._answered[stream] = None
        if len(self._answered) > MAX_ANSWERED:
            self._reset(next(iter(self._answered)))
        self.sends.append(Send(stream[0], StreamAnswer(stream[1], autonat.encode(response), finish=True)))

    def _reset(self, stream: _Stream) -> None:
        self._answered.pop(stream, None)
        self.sends.append(Send(stream[0], StreamAnswer(stream[1], None, reset=True)))

    def _say(self, stream: _Stream, payload: bytes | None) -> None:
        self.sends.append(Send(stream[0], StreamAnswer(stream[1], payload)))

    def _forget(self, stream: _Stream) -> None:
        job = self._jobs.pop(stream, None)
        if job is not None and job.request_id:
            self._dials.pop(job.request_id, None)

    def _random(self) -> float:
        """From 0 to 1."""
        return int.from_bytes(self._randomness(4), "big") / (1 << 32)


def _ip(address: str) -> _Ip | None:
    """Of the remote end; None, and so another than any that is dialled, when it is none."""
    try:
        return ip_address(plain(address))
    except ValueError:
        return None
