"""Relays as people and programs read them."""

from __future__ import annotations

import json

import pytest

from actors.relay_table import stars, to_json, to_text
from protocol.discovery_messages import BestRelays, FoundRelay
from protocol.identity import Identity
from tests.support.forwarders import multiaddr
from tests.support.peers import seeded

PEER = Identity.from_seed(seeded("relay")).peer_id


def relay(**more: object) -> FoundRelay:
    fields = {
        "peer": PEER.bytes,
        "addresses": (multiaddr("8.8.8.8"), b"junk"),
        "sources": ("dht", "mdns"),
        "latency": 0.0421,
        "load": 0.25,
        "score": 83.6,
        "answer": "reserves",
        "last_seen": 1_800_000_000.4,
    }
    return FoundRelay(**{**fields, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("score", "shown"), [(None, ""), (0.0, "☆☆☆☆☆"), (9.9, "☆☆☆☆☆"), (10.0, "★☆☆☆☆"), (80.0, "★★★★☆"), (100.0, "★★★★★")]
)
def test_stars(score: float | None, shown: str) -> None:
    assert stars(score) == shown


def test_a_program_gets_all() -> None:
    told = json.loads(json.dumps(to_json(BestRelays(1, (relay(agent="evil\x1b[2J"),), ("mdns: \x07",)))))
    assert told == {
        "relays": [
            {
                "peer_id": str(PEER),
                "addresses": [f"/ip4/8.8.8.8/tcp/4001/p2p/{PEER}"],
                "sources": ["dht", "mdns"],
                "latency_ms": 42.1,
                "load": 0.25,
                "score": 83.6,
                "stars": "★★★★☆",
                "answer": "reserves",
                "retry_after": 0,
                "agent": "evil?[2J",
                "last_seen": 1_800_000_000,
            }
        ],
        "problems": ["mdns: ?"],
    }


def test_a_person_gets_a_table() -> None:
    unknown = relay(latency=None, load=None, score=None, answer="full", retry_after=30, sources=("public",))
    text = to_text(to_json(BestRelays(1, (relay(), unknown), ("dht fell",))))
    head, first, second, blank, *rest = text.splitlines()
    assert head.split() == ["relay", "source", "latency", "load", "score", "says"]
    assert first.split() == [
        "..." + str(PEER)[-8:],
        "dht,",
        "mdns",
        "42",
        "ms",
        "25%",
        "84",
        "★★★★☆",
        "takes",
        "reservations",
    ]
    assert second.split()[1:] == ["public", "unrated", "full,", "again", "in", "30", "s"]
    assert blank == "" and rest == [f"/ip4/8.8.8.8/tcp/4001/p2p/{PEER}"] * 2 + ["Note: dht fell"]


def test_none_is_said_too() -> None:
    assert to_text({"relays": [], "problems": []}) == "No relay is known."
