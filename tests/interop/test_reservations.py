"""What each implementation's client gets when it reserves, and what it says when it is refused."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import pytest

from .conftest import IMPLEMENTATIONS, StartNode, StartPeer
from .node import Node
from .peer import Peer, PeerError

each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

HOP = "/libp2p/circuit/relay/0.2.0/hop"
# What the clients make of RESERVATION_REFUSED (200) and RESOURCE_LIMIT_EXCEEDED (201).
FULL = re.compile(r"reservation.?refused|resource.?limit|status 20[01]", re.IGNORECASE)
# ... and of NO_RESERVATION (204).
NOT_RESERVED = re.compile(r"no.?reservation|204", re.IGNORECASE)
# ... and of an answer that they could not read.
UNREADABLE = re.compile(r"malformed|unmarshal|decode|protobuf|wire|parse", re.IGNORECASE)


@each
def test_reserve(implementation: str, node: Node, start_peer: StartPeer) -> None:
    peer = start_peer(implementation)
    granted = peer.call("reserve", relay=node.address)
    assert any(node.transport_address in address for address in granted["addrs"])
    assert (granted["limit_data"], granted["limit_duration"]) == (0, 0)
    # rust-libp2p's client checks the expiry and tells nobody; js and py have no use for a voucher.
    if granted["expires"] is not None:
        assert time.time() + 60 < granted["expires"] < time.time() + 24 * 3600
    if granted["voucher"] is not None:
        assert granted["voucher"] is True


@each
def test_refresh_on_the_same_connection(implementation: str, node: Node, start_peer: StartPeer) -> None:
    peer, dialer = start_peer(implementation), start_peer("go")
    first = peer.call("reserve", relay=node.address)
    again = peer.call("refresh", relay=node.address)
    if first["expires"] is not None:
        assert again["expires"] >= first["expires"]
    assert sum(one["peer"] == node.peer_id for one in peer.call("connections")["connections"]) == 1
    assert dialer.call("connect", addr=node.circuit_to(peer.peer_id))["relayed"] is True
    dialer.call("ping", peer=peer.peer_id)


@each
def test_limits_are_told(implementation: str, start_node: StartNode, start_peer: StartPeer) -> None:
    node = start_node(circuit_data=3 << 20, circuit_duration=77)
    granted = start_peer(implementation).call("reserve", relay=node.address)
    assert (granted["limit_data"], granted["limit_duration"]) == (3 << 20, 77)


@each
def test_identify_tells_what_the_relay_is(implementation: str, node: Node, start_peer: StartPeer) -> None:
    peer = start_peer(implementation)
    peer.call("reserve", relay=node.address)
    known = peer.call("identify", peer=node.peer_id)
    assert {HOP, "/ipfs/id/1.0.0", "/ipfs/ping/1.0.0"} <= set(known["protocols"])
    assert "/libp2p/dcutr" not in known["protocols"]
    assert known["agent"]
    assert any(address.startswith(node.transport_address) for address in known["listen_addrs"])
    assert re.match(r"/ip4/127\.0\.0\.1/tcp/\d+", known["observed"])
    peer.call("ping", peer=node.peer_id)


@each
def test_full_relay_refuses_and_keeps_what_it_granted(
    implementation: str, start_node: StartNode, start_peer: StartPeer
) -> None:
    node = start_node(max_reservations=1)
    holder, late = start_peer("go"), start_peer(implementation)
    holder.call("reserve", relay=node.address)
    with pytest.raises(PeerError) as refused:
        late.call("reserve", relay=node.address)
    assert FULL.search(str(refused.value)), refused.value
    assert not UNREADABLE.search(str(refused.value)), "the reason and retry-after fields must not trouble other clients"
    holder.call("refresh", relay=node.address)


@each
def test_freed_slot_goes_to_the_next(implementation: str, start_node: StartNode, start_peer: StartPeer) -> None:
    """A reservation ends with its connection."""
    node = start_node(max_reservations=1)
    holder, late = start_peer(implementation), start_peer("go")
    holder.call("reserve", relay=node.address)
    holder.stop()
    deadline = time.monotonic() + 10
    while True:
        try:
            late.call("reserve", relay=node.address)
            return
        except PeerError as error:
            # The relay learns of the closed socket in its own time, and tells nobody.
            assert time.monotonic() < deadline, f"the slot of a peer that is gone was not freed: {error}"
            time.sleep(0.05)


@each
def test_dial_without_reservation_is_refused_by_name(
    implementation: str, node: Node, peers: Callable[[str, str], Peer], start_peer: StartPeer
) -> None:
    stranger = start_peer("go")
    with pytest.raises(PeerError) as refused:
        peers(implementation, "dialer").call("connect", addr=node.circuit_to(stranger.peer_id))
    # py-libp2p's transport does not pass the status on.
    assert implementation == "py" or NOT_RESERVED.search(str(refused.value)), refused.value
