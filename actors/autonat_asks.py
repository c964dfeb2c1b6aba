"""AutoNAT v2's client, one question at a time: can ``server`` reach us at ``address``? (protocol/autonat.py)

A server is believed only that it reached us when its nonce came back, on a connection that was opened to us; the nonce
is the question's alone, so no other server can have it but from that one.  What a server says of a dial that failed is
its word, and nothing more.  A part of Reachability (actors/reachability.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from actors.actor import Send
from protocol import autonat
from protocol.addresses import is_global
from protocol.autonat import DialDataRequest, DialDataResponse, DialRequest, DialResponse, DialStatus, ResponseStatus
from protocol.errors import RemoteProtocolError
from protocol.service_messages import StreamAnswer, StreamMessage, StreamOver, StreamWanted

#: Seconds until the first answer, and from there to the last: go-libp2p's server takes up to 13 s for data and dial,
#: ours up to 23.
TIMEOUT: Final = 25.0

#: Seconds that the nonce may come later than the word that it was sent: it came by another connection.
NONCE_TIME: Final = 5.0

#: ``reached``; ``failed``: it says that it could not connect.  No verdict: ``refused``: it would not dial that address;
#: ``busy``: not now; ``none``: it does not speak the protocol; ``away``: it is not there, or no longer; ``odd``: what
#: it says is not true or makes no sense; ``ours``: we could not ask.
Outcome = Literal["reached", "failed", "refused", "busy", "none", "away", "odd", "ours"]


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of a question.  ``at``: IP of the server, as text; "" when it was not met."""

    server: bytes
    address: bytes
    outcome: Outcome
    at: str = ""


@dataclass(slots=True)
class _Ask:
    forwarder: str
    server: bytes
    address: bytes
    nonce: int
    until: float
    at: str = ""
    fed: bool = False
    dialled: bool = False
    said: DialResponse | None = None


class Asks:
    """Those under way.  ``name``: of the actor that it is part of.  ``own()``: our addresses, binary multiaddrs.

    ``sends``, ``done``: to be taken."""

    def __init__(self, name: str, randomness: Callable[[int], bytes], own: Callable[[], tuple[bytes, ...]]) -> None:
        self.sends: list[Send] = []
        self.done: list[Asked] = []
        self._name = name
        self._randomness = randomness
        self._own = own
        self._next = 1
        self._asks: dict[int, _Ask] = {}

    def __len__(self) -> int:
        return len(self._asks)

    def begin(self, forwarder: str, server: bytes, addresses: tuple[bytes, ...], address: bytes, now: float) -> None:
        """Ask ``server``, who is at ``addresses``, over ``forwarder``."""
        number, self._next = self._next, self._next + 1
        nonce = int.from_bytes(self._randomness(8), "big")
        self._asks[number] = _Ask(forwarder, server, address, nonce, now + 2 * TIMEOUT + NONCE_TIME)
        payload = autonat.encode(DialRequest((address,), nonce))
        wanted = StreamWanted(number, self._name, server, addresses, autonat.DIAL_REQUEST, payload, TIMEOUT)
        self.sends.append(Send(forwarder, wanted))

    # What the server says where it was asked.

    def message(self, message: StreamMessage, now: float) -> None:
        ask = self._asks.get(message.request_id)
        if ask is None or ask.said is not None:
            self._end(message)
            return
        ask.at = message.address
        try:
            said = autonat.decode(message.payload)
        except RemoteProtocolError:
            said = None
        match said:
            case DialDataRequest(index=0, size=size) if size <= autonat.MOST_DATA and not ask.fed:
                ask.fed = True
                for sent in range(0, size, autonat.MAX_CHUNK):
                    chunk = DialDataResponse(bytes(min(autonat.MAX_CHUNK, size - sent)))
                    self._say(message, autonat.encode(chunk))
                if not size:
                    self._say(message, None)
            case DialResponse():
                self._end(message)
                self._answered(message.request_id, ask, said, now)
            case _:
                self._end(message)
                self._settle(message.request_id, "odd")

    def _answered(self, number: int, ask: _Ask, said: DialResponse, now: float) -> None:
        match said.status, said.dial:
            case ResponseStatus.DIAL_REFUSED, _:
                self._settle(number, "refused")
            case ResponseStatus.REQUEST_REJECTED | ResponseStatus.INTERNAL_ERROR, _:
                self._settle(number, "busy")
            case _ if said.index != 0 or said.dial is DialStatus.UNUSED:
                self._settle(number, "odd")
            case _ if ask.dialled:
                # Whatever it says of it: the nonce has come.
                self._settle(number, "reached")
            case _, DialStatus.DIAL_ERROR:
                self._settle(number, "failed")
            case _:
                ask.said, ask.until = said, now + NONCE_TIME

    def over(self, message: StreamOver) -> None:
        """The stream ended before the answer."""
        ask = self._asks.get(message.request_id)
        if ask is None or ask.said is not None:
            return
        match message.code:
            case "protocol":
                self._settle(message.request_id, "none")
            case "gone" | "limit":
                self._settle(message.request_id, "ours")
            case "malformed":
                self._settle(message.request_id, "odd")
            case _:
                self._settle(message.request_id, "away")

    # What a server says where it dialled us, maybe under another name ("Clients SHOULD only rely on the nonce and not
    # on the peerID").

    def dial_back(self, message: StreamMessage) -> bool:
        """A nonce; whether it is one of ours and came as it should."""
        try:
            nonce = autonat.decode_dial_back(message.payload)
        except RemoteProtocolError:
            nonce = -1
        number = next((number for number, ask in self._asks.items() if ask.nonce == nonce), 0)
        ask = self._asks.get(number)
        if ask is None or ask.dialled or not self._leads_here(message, ask.address):
            self.sends.append(Send(message.forwarder, StreamAnswer(message.stream, None, reset=True)))
            return False
        ask.dialled = True
        answer = StreamAnswer(message.stream, autonat.DIAL_BACK_RESPONSE, finish=True)
        self.sends.append(Send(message.forwarder, answer))
        if ask.said is not None:
            self._settle(number, "reached")
        return True

    def _leads_here(self, message: StreamMessage, address: bytes) -> bool:
        """ "checking the local address of the connection on which the nonce was received": it was opened to us, by the
        same IP version, and if that was at a public address of ours then at this one."""
        local = message.local
        if message.dialled or local[:1] != address[:1]:
            return False
        return local == address or local not in self._own() or not is_global(local)

    # Time, and forwarders.

    def next_deadline(self) -> float | None:
        return min((ask.until for ask in self._asks.values()), default=None)

    def handle_deadline(self, now: float) -> None:
        for number in [number for number, ask in self._asks.items() if ask.until <= now]:
            # It says that it has reached us, and has not; or that its stream failed, and who knows.
            self._settle(number, "odd")

    def forwarder_lost(self, forwarder: str) -> None:
        for number in [number for number, ask in self._asks.items() if ask.forwarder == forwarder]:
            self._settle(number, "ours")

    def _settle(self, number: int, outcome: Outcome) -> None:
        ask = self._asks.pop(number)
        self.done.append(Asked(ask.server, ask.address, outcome, ask.at))

    def _say(self, message: StreamMessage, payload: bytes | None) -> None:
        self.sends.append(Send(message.forwarder, StreamAnswer(message.stream, payload)))

    def _end(self, message: StreamMessage) -> None:
        over = StreamAnswer(message.stream, None, reset=True, release=True)
        self.sends.append(Send(message.forwarder, over))
