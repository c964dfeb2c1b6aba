"""Relays for a person to read, and for a program: `descord-relay relays`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from multiaddr import Multiaddr

from protocol.discovery_messages import BestRelays, FoundRelay
from protocol.identity import PeerId

#: Stars of the best score.
STARS: Final = 5

_HEAD: Final = ("relay", "source", "latency", "load", "score", "", "says")

_SAYS: Final = {
    "reserves": "takes reservations",
    "full": "full",
    "refuses": "refuses",
    "unprobed": "not tried",
    "unreachable": "not reached",
}


def stars(score: float | None) -> str:
    """``★★★★☆`` for 80 of 100; "" when it is not known."""
    if score is None:
        return ""
    full = min(max(int(score / 100 * STARS + 0.5), 0), STARS)
    return "★" * full + "☆" * (STARS - full)


def to_json(best: BestRelays) -> dict[str, Any]:
    """As an object of JSON: every relay with all that is known of it, best first."""
    return {"relays": [_relay(one) for one in best.relays], "problems": [_clean(one) for one in best.problems]}


def _relay(found: FoundRelay) -> dict[str, Any]:
    peer = str(PeerId(found.peer))
    return {
        "peer_id": peer,
        "addresses": [f"{text}/p2p/{peer}" for one in found.addresses if (text := _text(one))],
        "sources": list(found.sources),
        "latency_ms": None if found.latency is None else round(found.latency * 1000, 1),
        "load": found.load,
        "score": None if found.score is None else round(found.score, 1),
        "stars": stars(found.score),
        "answer": found.answer,
        "retry_after": found.retry_after,
        "agent": _clean(found.agent),
        "last_seen": round(found.last_seen),
    }


def to_text(answer: Mapping[str, Any]) -> str:
    """The table, from what :func:`to_json` made; below it, where each relay is, and what went wrong."""
    relays: Sequence[Mapping[str, Any]] = answer["relays"]
    if not relays:
        lines = ["No relay is known."]
    else:
        rows = [_HEAD, *map(_row, relays)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines += ["", *(address for relay in relays for address in relay["addresses"][:1])]
    lines += [f"Note: {problem}" for problem in answer["problems"]]
    return "\n".join(lines)


def _row(relay: Mapping[str, Any]) -> tuple[str, ...]:
    says = _SAYS.get(relay["answer"], relay["answer"])
    if relay["retry_after"]:
        says += f", again in {relay['retry_after']} s"
    return (
        "..." + relay["peer_id"][-8:],
        ", ".join(relay["sources"]),
        "" if relay["latency_ms"] is None else f"{relay['latency_ms']:.0f} ms",
        "" if relay["load"] is None else f"{relay['load']:.0%}",
        "unrated" if relay["score"] is None else f"{relay['score']:.0f}",
        relay["stars"],
        says,
    )


def _text(address: bytes) -> str:
    try:
        return str(Multiaddr(address))
    except Exception:  # multiaddr raises many types for one thing: it is no multiaddr
        return ""


def _clean(text: str) -> str:
    """What strangers wrote, fit for a terminal."""
    return re.sub(r"[^\x20-\x7e]", "?", text)[:200]
