"""Fixtures: peers built once, the node, and circuits between every ordered pair of implementations."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path

import pytest

from .node import Node
from .peer import TOOLCHAINS, Peer, running

HERE = Path(__file__).parent
IMPLEMENTATIONS = tuple(TOOLCHAINS)
PAIRS = tuple(product(IMPLEMENTATIONS, repeat=2))

MIB = 1 << 20
QUICK_BYTES = 8 * MIB
FULL_BYTES = 256 * MIB

# Implementation -> what to install, of those whose toolchain is not here.
MISSING = pytest.StashKey[dict[str, str]]()

StartPeer = Callable[..., Peer]
StartNode = Callable[..., Node]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --full-size."""
    parser.addoption(
        "--full-size",
        action="store_true",
        help=f"interop: move {FULL_BYTES // MIB} MiB each way between every pair, not {QUICK_BYTES // MIB}",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Name the marker."""
    config.addinivalue_line(
        "markers", "interop: runs peers of other libp2p implementations (slow; needs their toolchains)"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test of this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.interop)


def transfer_bytes(config: pytest.Config) -> int:
    """Bytes each way between a pair: DESCORD_INTEROP_BYTES, else --full-size, else the quick size."""
    if told := os.environ.get("DESCORD_INTEROP_BYTES"):
        return int(told)
    return FULL_BYTES if config.getoption("--full-size", default=False) else QUICK_BYTES


def pytest_report_header(config: pytest.Config) -> str:
    """Say how much is moved."""
    return f"interop: {transfer_bytes(config)} bytes each way between every pair"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say loudly what was not tested."""
    for implementation, why in config.stash.get(MISSING, {}).items():
        terminalreporter.write_line(f"NOT TESTED with {implementation}-libp2p: {why}", red=True, bold=True)


@pytest.fixture(scope="session")
def cache() -> Path:
    return cache_folder()


def cache_folder() -> Path:
    """Where the peers are built: outside the tree, kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "descord-relay-interop"


@pytest.fixture(scope="session")
def built(cache: Path, pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Builds one implementation's peer, once a session.

    Without its toolchain: a skip that says what to install; in CI a failure.
    """
    missing = pytestconfig.stash.setdefault(MISSING, {})
    failed: dict[str, str] = {}
    done: set[str] = set()

    def build(implementation: str) -> None:
        if implementation not in done:
            done.add(implementation)
            toolchain = TOOLCHAINS[implementation]
            if why := toolchain.missing():
                missing[implementation] = why
            else:
                try:
                    toolchain.build(cache)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    failed[implementation] = str(error)
        if implementation in failed:
            pytest.fail(failed[implementation], pytrace=False)
        if implementation in missing:
            told = f"{implementation} peer: {missing[implementation]}"
            if os.environ.get("CI") == "true":
                pytest.fail(told, pytrace=False)
            pytest.skip(told)

    return build


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Names a new file or folder that pytest keeps for a look afterwards."""
    folder = tmp_path_factory.mktemp("interop")
    numbers = count()
    return lambda name: folder / f"{next(numbers):03d}-{name}"


@pytest.fixture
def start_peer(cache: Path, built: Callable[[str], None], logs: Callable[[str], Path]) -> Iterator[StartPeer]:
    """Starts a peer of its own for one test, or many in one process."""
    with ExitStack() as stack:

        def start(implementation: str, count: int = 1, within: Sequence[str] = ()) -> Peer:
            built(implementation)
            log = logs(f"{implementation}.log")
            return stack.enter_context(running(implementation, cache, log, count, within))

        yield start


@pytest.fixture
def start_node(logs: Callable[[str], Path]) -> Iterator[StartNode]:
    """Starts a relay of its own for one test, with settings as keyword arguments (circuit_data=1048576)."""
    with ExitStack() as stack:

        def start(data_dir: Path | None = None, **settings: str | int) -> Node:
            node = Node(data_dir or logs("node"), **settings)  # type: ignore[arg-type]
            stack.callback(node.stop)
            return node

        yield start


@pytest.fixture(scope="session")
def node(logs: Callable[[str], Path]) -> Iterator[Node]:
    """The relay that all circuits of the session go through, limits lifted."""
    relay = Node(logs("node"))
    yield relay
    relay.stop()


@pytest.fixture(scope="session")
def peers(
    cache: Path, built: Callable[[str], None], logs: Callable[[str], Path]
) -> Iterator[Callable[[str, str], Peer]]:
    """The session's peers by implementation and role ("dialer", "target"), each its own process."""
    running_peers: dict[tuple[str, str], Peer] = {}
    with ExitStack() as stack:

        def get(implementation: str, role: str) -> Peer:
            built(implementation)
            key = (implementation, role)
            if key not in running_peers:
                log = logs(f"{implementation}-{role}.log")
                running_peers[key] = stack.enter_context(running(implementation, cache, log))
            return running_peers[key]

        yield get


@dataclass(frozen=True, slots=True)
class Circuit:
    """A dialer connected to a target through the relay. `size`: bytes to move each way."""

    relay: Node
    dialer: Peer
    target: Peer
    size: int

    @property
    def patience(self) -> float:
        """Seconds that one transfer may take: a floor of 1 MB/s, which py-libp2p's 30 MB/s is far above."""
        return 60 + self.size / 1e6


@pytest.fixture(scope="module", params=PAIRS, ids=lambda pair: f"{pair[0]}-to-{pair[1]}")
def circuit(request: pytest.FixtureRequest, node: Node, peers: Callable[[str, str], Peer]) -> Iterator[Circuit]:
    """A circuit of each ordered pair of implementations."""
    of_dialer, of_target = request.param
    dialer, target = peers(of_dialer, "dialer"), peers(of_target, "target")
    target.call("reserve", relay=node.address)
    connected = dialer.call("connect", addr=node.circuit_to(target.peer_id))
    assert connected["relayed"] is True
    yield Circuit(node, dialer, target, transfer_bytes(request.config))
    dialer.call("disconnect", peer=target.peer_id)
