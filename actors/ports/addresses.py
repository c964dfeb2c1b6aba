"""From the addresses that a person writes to those that sockets bind and peers dial."""

from __future__ import annotations

import errno
import ipaddress
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import ifaddr
from multiaddr import Multiaddr

from protocol.addresses import encode_tcp, is_global

# It is the node that says so.
log = logging.getLogger("actors.node")

#: How a host says that it has no IPv6: not built in, or switched off.
_NO_SUCH_FAMILY: Final = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

Ip = ipaddress.IPv4Address | ipaddress.IPv6Address


class BindError(Exception):
    """An address to listen on cannot be had."""


@dataclass(frozen=True, slots=True)
class BindTarget:
    """``optional``: a host without that IP version does without it."""

    text: str
    address: str
    port: int
    optional: bool


@dataclass(frozen=True, slots=True)
class Address:
    """A multiaddr without /p2p, as text and in binary."""

    text: str
    binary: bytes


def bind_targets(listen: Sequence[str]) -> list[BindTarget]:
    """The IP and port of each /ip4|ip6/.../tcp/... to listen on (settings have checked their form).

    [::] is optional beside another address: a host without IPv6 still relays.
    """
    targets = []
    for text in listen:
        address = Multiaddr(text)
        version = "ip6" if text.startswith("/ip6/") else "ip4"
        host = address.value_for_protocol(version)
        port = address.value_for_protocol("tcp")
        assert host is not None and port is not None
        targets.append(BindTarget(text, host, int(port), optional=host == "::" and len(listen) > 1))
    return targets


def bind_all(listen: Sequence[str], bind: Callable[[str, int], tuple[str, int]]) -> list[tuple[str, int]]:
    """Bind each address that there is to listen on; what was bound.  BindError."""
    bound: list[tuple[str, int]] = []
    for target in bind_targets(listen):
        try:
            bound.append(bind(target.address, target.port))
        except OSError as error:
            if target.optional and error.errno in _NO_SUCH_FAMILY:
                log.warning("not listening on %s: %s", target.text, error.strerror)
                continue
            raise BindError(f"listen = {target.text}: {error.strerror}; choose another with --listen") from error
    if not bound:
        raise BindError("none of the addresses to listen on can be had; choose others with --listen")
    return bound


def announced(announce: Sequence[str]) -> list[Address]:
    """The addresses that the operator wants told, in place of those that are found."""
    return [Address(text, Multiaddr(text).to_bytes()) for text in announce]


def reachable(bound: Iterable[tuple[str, int]]) -> list[Address]:
    """The addresses at which listening sockets are reached: each interface's for a wildcard.  Public ones first."""
    found: list[tuple[int, Ip, int]] = []
    for host, port in bound:
        ip = ipaddress.ip_address(host.partition("%")[0])
        for candidate in _interfaces(ip.version) if ip.is_unspecified else [ip]:
            rank = 2 if candidate.is_loopback else 0 if candidate.is_global else 1
            found.append((rank, candidate, port))
    found.sort(key=lambda entry: entry[0])
    return [_address(ip, port) for _, ip, port in dict.fromkeys(found)]


def told(found: Sequence[Address]) -> list[Address]:
    """Those of ``found`` that peers are told: if there are public ones, only these.  Whoever dials tries each, and the
    others lead to other hosts in other networks."""
    return [address for address in found if is_global(address.binary)] or list(found)


def private(known: Sequence[Address]) -> bool:
    """Whether all of them are of private networks, where other hosts are: a relay at home, behind NAT."""
    ips = [ipaddress.ip_address(address.text.split("/")[2]) for address in known]
    return not any(ip.is_global for ip in ips) and not all(ip.is_loopback for ip in ips)


def _interfaces(version: int) -> list[Ip]:
    found: list[Ip] = []
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            ip = ipaddress.ip_address(text.partition("%")[0])
            # A link-local address means nothing without the name of an interface on the other side.
            if ip.version == version and not ip.is_link_local:
                found.append(ip)
    return found


def _address(ip: Ip, port: int) -> Address:
    return Address(f"/ip{ip.version}/{ip}/tcp/{port}", encode_tcp(ip, port))
