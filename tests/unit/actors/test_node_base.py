"""What a node says of itself: counts that never go back, and what people read of them."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from actors.actor import Send
from actors.node_base import NodeBase, Sums
from actors.ports.addresses import _address
from actors.reports import line
from actors.runtime.spec import Runtime
from actors.settings import load_settings
from protocol.identity import Identity
from protocol.messages import StatusAnswer
from protocol.quota_messages import TermsSet
from tests.support.peers import seeded


class IdleNode(NodeBase):
    """One without actors, to look at what all nodes have in common."""

    async def start(self) -> None:
        pass

    async def status(self, interval: float) -> dict[str, Any]:
        return {"event": "status"}

    def processes(self) -> dict[str, Any]:
        return {}

    async def close(self) -> None:
        pass

    def running(self) -> Runtime:
        raise AssertionError("nothing runs here")

    def rose(self, actor: str) -> list[Send]:
        return []

    def fell(self, actor: str) -> None: ...

    def tell_addresses(self) -> None:
        pass

    def tell_terms(self, terms: TermsSet) -> None:
        pass


def node(tmp_path: Path, *flags: str) -> NodeBase:
    settings = load_settings(flags, {"HOME": str(tmp_path)})
    return IdleNode(settings, Identity.from_seed(seeded("node")), lambda event: None)


def answer(total: int, refusals: dict[str, int] | None = None, refused_here: dict[str, int] | None = None) -> Any:
    return StatusAnswer(0, 1, 2, 3, total, refusals or {}, refused_here or {})


def test_sums_go_on_where_they_were_when_their_counter_begins_anew() -> None:
    sums = Sums()
    assert [sums.take("bytes", value) for value in (100, 150, 20, 30, 0, 5)] == [100, 150, 150, 160, 160, 165]
    assert sums.take_all("refused", {"a": 2}) == {"a": 2}
    assert sums.take_all("refused", {"b": 1}) == {"a": 2, "b": 1}
    assert sums.take_all("refused", {"a": 1, "b": 1}) == {"a": 3, "b": 1}
    assert sums.take_all("lost", {}) == {}


def test_a_forwarder_that_fell_takes_nothing_back(tmp_path: Path) -> None:
    base = node(tmp_path)
    first = base.told_status(answer(5000, {"max_connections": 2}), 10.0)
    assert (first["bytes"], first["bytes_per_second"], first["refusals"]) == (5000, 500, {"max_connections": 2})
    second = base.told_status(answer(1000), 10.0)
    assert (second["bytes"], second["bytes_per_second"], second["refusals"]) == (5000, 0, {"max_connections": 2})
    third = base.told_status(answer(3000), 10.0)
    assert (third["bytes"], third["bytes_per_second"]) == (7000, 200)


def test_refusals_are_counted_once_and_by_the_limit_that_was_hit(tmp_path: Path) -> None:
    counted = {
        "RESERVATION_REFUSED": 3,
        "NO_RESERVATION": 2,
        "max_connections_per_ip": 7,
        "circuit failed: stop_timeout": 1,
        "connection lost: max_backlog": 1,
        "protocol error: noise": 4,
    }
    here = {"max_reservations_per_ip": 3, "no_reservation": 2}
    status = node(tmp_path).told_status(answer(0, counted, here), 0.0)
    assert status["refusals"] == {"max_connections_per_ip": 7, **here}
    assert (status["failures"], status["lost"]) == ({"stop_timeout": 1}, {"max_backlog": 1})
    assert status["errors"] == {"connection noise": 4}
    assert line(status).endswith(
        "0.00 GB relayed, 12 refused (max_connections_per_ip 7, max_reservations_per_ip 3, no_reservation 2), "
        "1 circuits failed (stop_timeout 1), 1 connections given up (max_backlog 1), "
        "4 peers' errors (connection noise 4); cooperative: 0.0 MB in the last hour"
    )


def test_a_line_names_the_most_frequent_reasons_and_nothing_that_did_not_happen(tmp_path: Path) -> None:
    base = node(tmp_path)
    assert line(base.told_status(answer(0), 0.0)).endswith("0.00 GB relayed; cooperative: 0.0 MB in the last hour")
    many = {f"reason_{number}": number for number in range(1, 8)}
    assert "28 refused (reason_7 7, reason_6 6, reason_5 5, reason_4 4, ...);" in line(
        base.told_status(answer(0, many), 0.0)
    )


@pytest.mark.parametrize(
    ("found", "flags", "warned"),
    [
        (["192.168.1.5", "127.0.0.1"], [], True),
        (["100.64.0.7"], [], True),
        (["192.168.1.5", "2600::5"], [], False),
        (["127.0.0.1"], [], False),  # asked for: a network of one host
        (["192.168.1.5"], ["--announce", "/ip4/192.168.1.5/tcp/4001"], False),
    ],
)
def test_a_relay_that_the_internet_does_not_reach_says_so(
    found: list[str], flags: list[str], warned: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = node(tmp_path, *flags)
    base.processes = dict  # type: ignore[method-assign]
    ips = [ipaddress.ip_address(text) for text in found]
    monkeypatch.setattr("actors.node_base.reachable", lambda bound: [_address(ip, 4001) for ip in ips])
    base.find_addresses()
    ready = base.ready()
    assert ("warning" in ready) is warned
    for event in (ready, base.changed()):
        text = line(event)
        assert ("--announce /ip4/YOUR.PUBLIC.IP/tcp/4001" in text) is warned


def test_a_node_that_relays_for_nobody_asks_for_no_open_port(tmp_path: Path) -> None:
    base = node(tmp_path, "--mode", "client-only")
    base.hidden = True
    ready = base.ready()
    assert ready["mode"] == "client-only" and "warning" not in ready
    assert "relays for nobody" in line(ready)
