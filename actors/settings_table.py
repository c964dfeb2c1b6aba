"""Every setting of a node: its name, what it may be, its default, and why.

A row here is a flag ``--name``, an environment variable ``DESCORD_RELAY_NAME``, a key of the settings file and an
attribute of :class:`actors.settings.Settings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from actors.relay_mode import CONSENTS, INCENTIVES, MODES, RUN_WHEN

UNBOUNDED: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Row:
    """``kind``: bool, int, float, str, path, addresses or peers (both lists).  ``unit``: of the value.  ``least``,
    ``most``: inclusive."""

    name: str
    kind: str
    unit: str
    default: Any
    reason: str
    least: float = 0
    most: float = UNBOUNDED
    choices: tuple[str, ...] = ()
    check: Callable[[Any], str | None] | None = None

    @property
    def allowed(self) -> str:
        """What a value may be, for a person."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.kind == "bool":
            return "on or off"
        if self.kind == "addresses":
            return "multiaddrs, for example /ip4/0.0.0.0/tcp/4001"
        if self.kind == "peers":
            return "peer ids, for example 12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
        if self.kind in ("str", "path"):
            return "text" if self.kind == "str" else "a path"
        number = "a whole number" if self.kind == "int" else "a number"
        if self.most == UNBOUNDED:
            return f"{number} of at least {_plain(self.least)}"
        return f"{number} from {_plain(self.least)} to {_plain(self.most)}"


def _plain(number: float) -> str:
    return f"{int(number)}" if number == int(number) else f"{number}"


def _listen_form(addresses: list[str]) -> str | None:
    from multiaddr import Multiaddr

    for text in addresses:
        try:
            names = [protocol.name for protocol in Multiaddr(text).protocols()]
        except Exception:  # multiaddr raises many types for one thing: it is no multiaddr
            return f"{text} is no multiaddr"
        if names not in (["ip4", "tcp"], ["ip6", "tcp"]):
            return f"{text} is not of the form /ip4/ADDRESS/tcp/PORT or /ip6/ADDRESS/tcp/PORT"
    return None


def _announce_form(addresses: list[str]) -> str | None:
    from multiaddr import Multiaddr

    for text in addresses:
        try:
            address = Multiaddr(text)
            names = [protocol.name for protocol in address.protocols()]
        except Exception:
            return f"{text} is no multiaddr"
        if names == ["dnsaddr"]:
            continue
        if len(names) != 2 or names[0] not in ("ip4", "ip6", "dns", "dns4", "dns6") or names[1] != "tcp":
            return (
                f"{text} is not of the form /ip4/ADDRESS/tcp/PORT, /ip6/ADDRESS/tcp/PORT, /dns4/NAME/tcp/PORT (dns, "
                f"dns6) or /dnsaddr/NAME; it has no /p2p: that is added"
            )
        host, port = str(address.value_for_protocol(names[0])), address.value_for_protocol("tcp")
        if names[0] in ("ip4", "ip6") and ip_address(host).is_unspecified:
            return f"{text}: nobody can dial {host}"
        if port == "0":
            return f"{text}: nobody can dial port 0"
    return None


def _ip_form(text: str) -> str | None:
    try:
        ip_address(text)
    except ValueError:
        return f"{text} is no IP address"
    return None


def _relay_form(addresses: list[str]) -> str | None:
    from actors.dial_address import DialAddressError, parse_dial_address

    for text in addresses:
        try:
            address = parse_dial_address(text)
        except DialAddressError as error:
            return str(error)
        if address.target is not None:
            return f"{text} leads through another relay: give the relay itself"
        if address.peer is None and address.host != "dnsaddr":
            return f"{text} does not say whose address it is: /p2p/PEER belongs behind it"
    return None


def _peers_form(peers: list[str]) -> str | None:
    from protocol.identity import PeerId

    for text in peers:
        try:
            PeerId.parse(text)
        except ValueError as error:
            return str(error)
    return None


def _protocol_form(text: str) -> str | None:
    if not re.fullmatch(r"(/[A-Za-z0-9._-]{1,64}){2,4}", text):
        return f"{text} is no protocol's name, such as /descord/kad/1.0.0"
    return None


#: Kinds of settings that are lists.
LISTS: Final = ("addresses", "peers")

KIB: Final = 1024
MIB: Final = 1024 * 1024

TABLE: Final[tuple[Row, ...]] = (
    Row("listen", "addresses", "", ["/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001"],
        "Where peers connect. 4001 is the port that libp2p nodes use and that people have opened; 0 takes any.",
        check=_listen_form),
    Row("announce", "addresses", "", [],
        "Addresses to tell peers in place of those of the interfaces: for a host behind NAT, or with a name.",
        check=_announce_form),
    Row("address_interval", "float", "s", 60.0,
        "Time between two looks at the interfaces: when their addresses change, peers are told. 0: never.",
        most=86_400),
    Row("data_dir", "path", "", "",
        "Where the identity key is kept. Empty: descord-relay in the user's state folder."),
    Row("log_level", "str", "", "info", "How much is logged to stderr.",
        choices=("debug", "info", "warning", "error")),
    Row("json", "bool", "", False, "One JSON object a line on stdout, for programs that start a node."),
    Row("status_interval", "float", "s", 60.0,
        "Time between two lines that say what the node is doing; 0: none.", most=86_400),
    Row("metrics_port", "int", "", 0,
        "TCP port of the metrics, for Prometheus; 0: none. A node that is started as a dedicated relay has 9090 unless "
        "another is named.", most=65_535),
    Row("metrics_listen", "str", "", "127.0.0.1",
        "IP address of the metrics. They name no peer, but say how busy the relay is.", check=_ip_form),
    Row("trace_sampling", "float", "", 1.0,
        "Share of circuits and reservations whose trace is exported, if OTEL_EXPORTER_OTLP_ENDPOINT is set; those that "
        "fail or are refused always are. A busy relay takes 0.01.", most=1),
    Row("trace_identities", "bool", "", False,
        "Show peer ids and IP addresses in traces and logs. Off: hashes under a key that only this node has. On: "
        "whoever reads them learns who talked to whom, when and how much."),
    Row("trace_key_rotation", "float", "s", 86_400.0,
        "Time after which that key is replaced: a peer's circuits can be told to be one peer's for so long.",
        least=60, most=31_536_000),
    Row("shutdown_grace", "float", "s", 1.5,
        "Time that peers have to take the last bytes when the node stops; it ends within 2 s.", most=1.9),

    Row("discovery", "bool", "", True,
        "Be one of a network of relays: be found by those who look for one, look for others, keep records for them. "
        "Off: only those who are told its address use this relay."),
    Row("public_relays", "addresses", "", [],
        "Relays that are known beforehand: by them the node joins the others, and they are used when none else is "
        "found. For example /dns4/relay1.descord.io/tcp/4001/p2p/PEER, /dnsaddr/relays.descord.io.",
        check=_relay_form),
    Row("mdns", "bool", "", True,
        "Find relays on the same network, and be found there, by multicast DNS."),
    Row("dht_protocol", "str", "", "/descord/kad/1.0.0",
        "The DHT that is joined: this network's own. /ipfs/kad/1.0.0 is the public one of IPFS, with far more traffic.",
        check=_protocol_form),
    Row("private_network", "bool", "", False,
        "All of the network is on private addresses: those are published, and dialled whoever tells them. Off: an "
        "address of somebody's choice within this host's own network is never dialled."),
    Row("assume_reachable", "bool", "", False,
        "Publish the node's addresses although nobody has confirmed that it is reached there."),
    Row("port_mapping", "bool", "", True,
        "Behind a home router: have it pass the node's port on (PCP, NAT-PMP; UPnP with the extra upnp). The address "
        "is published once others have confirmed that they reach the node there, and given up at the end."),
    Row("mode", "str", "", "cooperative",
        "Whether the node relays. cooperative: within max_bandwidth and run_when, which by default forbid nothing: who "
        "starts a relay wants one. dedicated: always. client-only: for nobody. `descord-relay mode` changes this and "
        "the settings up to incentive while the node runs.", choices=MODES),
    Row("max_bandwidth", "int", "MB/hour", 0,
        "What circuits may carry in all, both directions together, each byte once, spread evenly; 0: any amount. When "
        "it is spent, new circuits are refused and running ones slow down. The line carries twice as much, in and out, "
        "and some percent of headers.", most=1_000_000_000),
    Row("run_when", "str", "", "always",
        "When a cooperative node takes on something new: always; charging: not on battery; idle: when other programs "
        "have used less than a third of a core for five minutes.", choices=RUN_WHEN),
    Row("uptime_target", "float", "", 0.0,
        "Share of the day (0 to 1) in which a cooperative node means to relay. run_when wins; the status says where it "
        "keeps the node below.", most=1),
    Row("public", "bool", "", True, "Whether a dedicated relay is listed in the directory."),
    Row("incentive", "str", "", "volunteer",
        "What the node relays for: to be served first by other relays, to which it shows what peers have signed for it "
        "(priority); the same as long as it relayed more than it used (credits); nothing (volunteer).",
        choices=INCENTIVES),
    Row("receipts", "str", "", "kept",
        "What this node, and `descord-relay expose`, `forward`, `socks` and `ping`, sign for relays that they used: "
        "shown: a receipt that the relay may show to others, so that it is served first there; they learn that this "
        "peer used that relay. kept: one that it may not. off: none. None is ever made at Maximum, nor for several "
        "relays in a row.", choices=CONSENTS),

    Row("circuit_data", "int", "bytes each way", 0,
        "What a circuit may carry; 0: unlimited. Fairness is kept by rates and counts, which end no transfer midway, "
        "as the 128 KiB of other relays does.", most=2**63 - 1),
    Row("circuit_duration", "float", "s", 0.0,
        "How long a circuit may last; 0: unlimited. An idle circuit costs a few hundred bytes.",
        most=0xFFFFFFFF),
    Row("move_diallers", "bool", "", True,
        "With several forwarders: a dialler's connection that nothing binds moves to its target's forwarder, where the "
        "circuit costs what it costs on one, unless that one is busy. Off: circuits between forwarders are bridged."),
    Row("circuit_window", "int", "bytes", MIB,
        "Most bytes that a sender may have under way on a circuit: what a stalled receiver costs. 1 MiB keeps "
        "100 Mbit/s over a round trip of 80 ms.", least=256 * KIB, most=64 * MIB),
    Row("reservation_duration", "float", "s", 3600.0,
        "How long a reservation lasts unless it is refreshed. One hour is what go- and rust-libp2p grant, so that "
        "clients refresh in time.", least=60, most=604_800),

    Row("max_reservations", "int", "", 1024,
        "Peers that can be reached through this relay. A reservation costs about 12 KiB of memory.", least=1,
        most=1_000_000),
    Row("max_reservations_per_ip", "int", "", 16,
        "Reservations of one address, in all limits an IPv4 address or an IPv6 /64: of a household or an office.",
        least=1, most=1_000_000),
    Row("max_reservations_per_group", "int", "", 128,
        "Reservations of one /24 (IPv4) or /56 (IPv6): an eighth of all, so that no one network takes the relay.",
        least=1, most=1_000_000),
    Row("max_circuits", "int", "", 2048, "Circuits at a time.", least=1, most=1_000_000),
    Row("max_circuits_per_peer", "int", "", 128,
        "Circuits of one peer, as dialler or target: a popular service has many diallers.", least=1,
        most=1_000_000),
    Row("max_circuits_per_ip", "int", "", 256,
        "Circuits that the diallers of one address have: an eighth of all, so that no one address takes the relay.",
        least=1, most=1_000_000),
    Row("max_circuits_per_pair", "int", "", 32,
        "Circuits of one dialler to one target, so that no one dialler takes all of a target's. Applications need one.",
        least=1, most=1_000_000),
    Row("trusted_peers", "peers", "", [],
        "Peers that are served before the public when the relay is full: your own, your friends'.", check=_peers_form),
    Row("max_connections", "int", "", 4096,
        "TCP connections at a time. A peer that sends the start of a message and waits costs at most 64 KiB.",
        least=2, most=1_000_000),
    Row("max_connections_per_ip", "int", "", 64, "TCP connections of one address.", least=1, most=1_000_000),
    Row("max_inbound_streams", "int", "", 512,
        "Streams that a peer may hold open on one connection, circuits included.", least=4, most=65_536),
    Row("max_unacked_streams", "int", "", 256,
        "Streams of ours that may wait for a peer's acknowledgement (yamux: at most 256).", least=1, most=256),
    Row("max_frame", "int", "bytes", 16 * MIB,
        "Body of a yamux frame; the stream's window bounds it before that.", least=64 * KIB, most=256 * MIB),
    Row("max_backlog", "int", "bytes", 64 * MIB,
        "Unsent bytes to one peer at which it is given up. Credit holds it far below; this is the last bound.",
        least=MIB),
    Row("max_backlog_total", "int", "bytes", 256 * MIB,
        "Unsent bytes to all peers at which the one with most is given up: what slow readers may cost in all.",
        least=MIB),
    Row("write_timeout", "float", "s", 60.0,
        "Time in which a peer must take some of the bytes that wait for it, or is given up: its pings do not say that "
        "it reads.", least=1, most=86_400),
    Row("max_open_files_reserve", "int", "files", 64,
        "File descriptors that are kept for everything but connections.", least=8, most=65_536),

    Row("handshake_timeout", "float", "s", 10.0,
        "From accepting a connection until its peer has proved who it is.", least=0.1, most=600),
    Row("idle_timeout", "float", "s", 60.0,
        "A connection without stream, reservation or circuit is closed after this, at most a quarter of it later.",
        least=1, most=86_400),
    Row("stream_timeout", "float", "s", 30.0,
        "From opening a stream until its request is complete and answered.", least=0.1, most=600),
    Row("stop_timeout", "float", "s", 15.0,
        "Time that the target of a circuit has to accept it.", least=0.1, most=600),
    Row("resolver_timeout", "float", "s", 5.0,
        "Time in which a name that `descord-relay ping` or `reserve` dials must resolve, whatever records it leads to.",
        least=0.1, most=600),
    Row("keepalive_interval", "float", "s", 60.0,
        "Silence after which a peer is pinged; home routers forget a connection after a few minutes. 0: never.",
        most=86_400),
    Row("keepalive_timeout", "float", "s", 20.0,
        "Silence after that ping at which the peer counts as gone.", least=1, most=86_400),

    Row("relays_kept", "int", "", 2,
        "Relays through which others reach `descord-relay expose` at the privacy level high: when one is lost, the "
        "other serves while a third is found.",
        least=1, most=8),
    Row("path_timeout", "float", "s", 20.0,
        "Time that `descord-relay forward`, `socks` and `ping --privacy` have for one way to a peer before the next is "
        "tried: a relay gives the target 15 s.",
        least=1, most=600),
    Row("next_path_after", "float", "s", 1.0,
        "Time without an answer after which the next way at the privacy level high, through another relay, is tried "
        "beside it: a relay that vanished without a word would cost path_timeout. A connection on which nothing came "
        "in that time, at low too, is used for no new stream until something does. A relay halfway round the world "
        "answers in less.",
        least=0.1, most=600),
    Row("asn_database", "str", "", "",
        "File of autonomous systems (MMDB, as GeoLite2 ASN or DB-IP's) by which relays in a row are of different "
        "providers, and not only of different networks; pip install 'descord-relay[asn]'. Empty: by network alone."),
    Row("tor_socks", "str", "", "127.0.0.1:9050", "HOST:PORT of Tor's SOCKS port, for the privacy level maximum."),
    Row("tor_control", "str", "", "127.0.0.1:9051",
        "HOST:PORT of Tor's control port, for being reached at the privacy level maximum."),

    Row("handover_timeout", "float", "s", 20.0,
        "Time that a process which takes over (SIGHUP) has for each step; then it is ended, and the old one goes on.",
        least=1, most=3600),

    Row("rate_limits", "bool", "", True,
        "Whether the rates below hold. Off for tests, benchmarks and private networks."),
    Row("connection_rate_per_ip", "float", "a minute", 240.0, "New connections of one address.", least=1),
    Row("reserve_rate_per_peer", "float", "a minute", 30.0, "Requests to reserve, of one peer.", least=1),
    Row("reserve_rate_per_ip", "float", "a minute", 240.0, "Requests to reserve, of one address.", least=1),
    Row("connect_rate_per_peer", "float", "a minute", 600.0, "Requests for a circuit, of one peer.", least=1),
    Row("connect_rate_per_ip", "float", "a minute", 2400.0, "Requests for a circuit, of one address.", least=1),
    Row("ping_rate_per_connection", "float", "a second", 100.0,
        "Pings of one connection, of yamux and of the ping protocol together; an application that pings in a loop over "
        "a local network stays below.", least=1),
    Row("stream_rate_per_connection", "float", "a second", 200.0,
        "New streams of one connection, whatever becomes of them.", least=1),
    Row("frame_rate_per_ip", "float", "a second", 20_000.0,
        "yamux frames of one address that are not simply passed on: window updates, pings, data of streams that end "
        "here; of very small frames that are, one in 16. Above it its connections are read more slowly. A transfer of "
        "500 MB/s sends some 5,000.", least=100),

    Row("serve_perf", "bool", "", False,
        "Answer /perf/1.0.0: anybody may then have the node send bytes, to measure it."),
    Row("runtime", "str", "", "local",
        "Where actors run: local is one process, ray one for each actor. Ray costs about 400 MB of memory and two "
        "seconds at the start; pip install 'descord-relay[ray]'.", choices=("local", "ray")),
    Row("forwarders", "int", "", 1,
        "Processes that share the port and carry circuits: as many as there are cores to spare. More than 1 need ray.",
        least=1, most=256),
    Row("ray_address", "str", "", "",
        "HOST:PORT of the Ray cluster to run on, as `ray start` prints it. Empty: one of the node's own, on loopback."),
    Row("heartbeat_interval", "float", "s", 1.0,
        "Time between two signs of life of an actor's process (ray).", least=0.1, most=60),
    Row("heartbeat_timeout", "float", "s", 5.0,
        "Silence after which such a process is killed and replaced. One that died or was stopped is found at once; "
        "this is for one that hangs, and must exceed what a busy host makes it wait.", least=0.5, most=600),
    Row("mailbox_capacity", "int", "messages", 100_000,
        "Messages that may wait for one actor: more than all peers can have asked at once.", least=100),
    Row("max_restarts", "int", "", 10,
        "Failures of one actor within restart_window that are borne; then the node ends.", most=10_000),
    Row("restart_window", "float", "s", 60.0, "See max_restarts.", least=1, most=86_400),
)  # fmt: skip

ROWS: Final[dict[str, Row]] = {row.name: row for row in TABLE}
