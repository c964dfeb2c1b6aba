"""A private Tor network on 127.0.0.1, for tests.

Starts a few directory authorities (which are also relays and exits), some more
relays, and some clients, all with TestingTorNetwork 1 and a DataDirectory in a
temporary folder.  No node knows any directory authority but the private ones,
so nothing leaves the loopback interface.  Needs the `tor` and `tor-gencert`
programs (Debian: apt-get install tor); of Python the standard library only
(stem works on its control ports, cookie authentication).

    with PrivateTorNetwork() as net:
        net.wait_ready()
        host = net.publish(net.clients[1], {80: ("127.0.0.1", 8080)})
        sock = net.connect(net.clients[0], host, 80)

Every tor process ends by itself when this one does, even if it is killed.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


class TorNetworkError(RuntimeError):
    pass


def free_ports(count: int) -> list[int]:
    """Distinct free loopback ports; all held open until all are chosen."""
    held = []
    try:
        for _ in range(count):
            s = socket.socket()
            s.bind(("127.0.0.1", 0))
            held.append(s)
        return [s.getsockname()[1] for s in held]
    finally:
        for s in held:
            s.close()


def socks5_connect(
    socks_port: int, host: str, port: int, timeout: float = 60.0, isolate: str | None = None
) -> socket.socket:
    """SOCKS5 CONNECT with the name resolved by tor; `isolate` (a user name)
    puts the stream on a circuit of its own."""
    s = socket.create_connection(("127.0.0.1", socks_port), timeout=timeout)
    try:
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isolate is None:
            s.sendall(b"\x05\x01\x00")
            if _recv_exact(s, 2) != b"\x05\x00":
                raise TorNetworkError("SOCKS method refused")
        else:
            s.sendall(b"\x05\x01\x02")
            if _recv_exact(s, 2) != b"\x05\x02":
                raise TorNetworkError("SOCKS auth method refused")
            u = isolate.encode()
            s.sendall(b"\x01" + bytes([len(u)]) + u + b"\x01x")
            if _recv_exact(s, 2)[1] != 0:
                raise TorNetworkError("SOCKS auth refused")
        name = host.encode("ascii")
        s.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", port))
        rep = _recv_exact(s, 4)
        if rep[1] != 0:
            raise TorNetworkError(f"SOCKS reply {rep[1]}")
        skip = {1: 4, 4: 16}.get(rep[3])
        _recv_exact(s, (skip if skip is not None else _recv_exact(s, 1)[0]) + 2)
        return s
    except BaseException:
        s.close()
        raise


def _recv_exact(s: socket.socket, n: int) -> bytes:
    out = b""
    while len(out) < n:
        part = s.recv(n - len(out))
        if not part:
            raise TorNetworkError("connection closed during the SOCKS handshake")
        out += part
    return out


@dataclasses.dataclass
class Node:
    name: str
    kind: str  # authority | relay | client
    dir: Path
    control_port: int
    or_port: int = 0
    dir_port: int = 0
    socks_port: int = 0
    fingerprint: str = ""
    proc: subprocess.Popen[bytes] | None = None
    owner: socket.socket | None = None

    @property
    def pid(self) -> int:
        return self.proc.pid if self.proc else 0

    @property
    def cookie_path(self) -> Path:
        return self.dir / "control_auth_cookie"

    @property
    def log(self) -> Path:
        return self.dir / "notice.log"


class ControlConnection:
    """As much of tor's control protocol as this needs."""

    def __init__(self, n: Node, timeout: float = 10.0):
        self.sock = socket.create_connection(("127.0.0.1", n.control_port), timeout=timeout)
        self.file = self.sock.makefile("rwb")
        self.events: list[str] = []
        try:
            self.command("AUTHENTICATE " + n.cookie_path.read_bytes().hex())
        except BaseException:
            self.close()
            raise

    def _reply(self) -> str:
        lines = []
        while True:
            line = self.file.readline().decode("utf-8", "replace").rstrip("\r\n")
            if not line:
                raise TorNetworkError("control connection closed")
            lines.append(line)
            if line[3:4] == "+":
                while (data := self.file.readline().decode("utf-8", "replace").rstrip("\r\n")) != ".":
                    lines.append(data)
            elif line[3:4] == " ":
                return "\n".join(lines)

    def command(self, text: str) -> str:
        self.file.write(text.encode() + b"\r\n")
        self.file.flush()
        while (reply := self._reply()).startswith("650"):
            self.events.append(reply)
        if not reply.startswith("25"):
            raise TorNetworkError(f"{text.split()[0]}: {reply}")
        return reply

    def event(self) -> str:
        return self.events.pop(0) if self.events else self._reply()

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def __enter__(self) -> ControlConnection:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class PrivateTorNetwork:
    def __init__(
        self,
        authorities: int = 3,
        relays: int = 4,
        clients: int = 2,
        *,
        directory: str | os.PathLike[str] | None = None,
        keep: bool = False,
        initial_interval: int = 10,
        voting_interval: int = 60,
        congestion_control: bool = True,
        extra: list[str] | None = None,
        identity_dir: str | os.PathLike[str] | None = None,
        tor: str = "tor",
        gencert: str = "tor-gencert",
    ):
        self.tor, self.gencert = tor, gencert
        # where the authorities' (worthless) 3072-bit identity keys are kept
        # from one network to the next: making three takes 4 to 18 s
        self.identity_dir = Path(identity_dir) if identity_dir else None
        self.keep = keep
        self.extra = extra or []
        self.initial_interval, self.voting_interval = initial_interval, voting_interval
        self.congestion_control = congestion_control
        self.times: dict[str, float] = {}
        self._own_dir = directory is None
        self.dir = Path(directory or tempfile.mkdtemp(prefix="private-tor-"))
        self.dir.mkdir(parents=True, exist_ok=True)
        ports = iter(free_ports(3 * authorities + 2 * relays + 2 * clients))
        self.authorities = [self._node("auth", i, "authority", ports) for i in range(authorities)]
        self.relays = [self._node("relay", i, "relay", ports) for i in range(relays)]
        self.clients = [self._node("client", i, "client", ports) for i in range(clients)]

    @property
    def nodes(self) -> list[Node]:
        return self.authorities + self.relays + self.clients

    def _node(self, prefix: str, i: int, kind: str, ports: Iterator[int]) -> Node:
        name = f"{prefix}{i}"
        node = Node(name, kind, self.dir / name, next(ports))
        if kind == "client":
            node.socks_port = next(ports)
        else:
            node.or_port = next(ports)
            if kind == "authority":
                node.dir_port = next(ports)
        node.dir.mkdir(mode=0o700)
        return node

    # -- keys and configuration

    def _authority_line(self, n: Node) -> str:
        keys = n.dir / "keys"
        keys.mkdir(mode=0o700)
        identity = keys / "authority_identity_key"
        kept = self.identity_dir / f"{n.name}_identity_key" if self.identity_dir else None
        new = ["--create-identity-key"]
        if kept and kept.exists():
            shutil.copyfile(kept, identity)
            new = []
        subprocess.run(
            [
                self.gencert,
                *new,
                "--passphrase-fd",
                "0",
                "-i",
                identity,
                "-s",
                keys / "authority_signing_key",
                "-c",
                keys / "authority_certificate",
                "-m",
                "12",
                "-a",
                f"127.0.0.1:{n.dir_port}",
            ],
            input=b"test\n",
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        if kept and new:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(identity, kept)
        v3 = next(
            line.split()[1]
            for line in (keys / "authority_certificate").read_text().splitlines()
            if line.startswith("fingerprint ")
        )
        return (
            f"DirAuthority {n.name} orport={n.or_port} no-v2 v3ident={v3} 127.0.0.1:{n.dir_port} {self._fingerprint(n)}"
        )

    def _fingerprint(self, n: Node) -> str:
        """Make the relay's identity keys; the RSA identity's fingerprint."""
        out = subprocess.run(
            [
                self.tor,
                "--quiet",
                "--ignore-missing-torrc",
                "-f",
                "/nonexistent",
                "--list-fingerprint",
                "--DataDirectory",
                n.dir,
                "--Nickname",
                n.name,
                "--ORPort",
                "127.0.0.1:1",
                "--Address",
                "127.0.0.1",
                "--DirAuthority",
                f"x 127.0.0.1:1 {'F' * 40}",
                "--AssumeReachable",
                "1",
            ],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        n.fingerprint = out.strip().splitlines()[-1].split(None, 1)[1].replace(" ", "")
        return n.fingerprint

    def _bandwidth_file(self) -> Path:
        """The same "measured" bandwidth for every relay, so that paths vary
        (counted once three authorities vote it); without it the weights are
        the noise of the relays' self-tests."""
        path = self.dir / "v3bw"
        path.write_text(
            f"{int(time.time())}\n"
            + "".join(f"node_id=${n.fingerprint} bw=10000 nick={n.name}\n" for n in self.authorities + self.relays)
        )
        return path

    def _torrc(self, n: Node, dirauths: list[str]) -> str:
        lines = [
            "TestingTorNetwork 1",
            *dirauths,
            "UseDefaultFallbackDirs 0",
            f"DataDirectory {n.dir}",
            f"Nickname {n.name}",
            f"Log notice file {n.log}",
            f"ControlPort 127.0.0.1:{n.control_port}",
            "CookieAuthentication 1",
            "__ReloadTorrcOnSIGHUP 0",
            "ShutdownWaitLength 0",
            "SafeLogging 0",
            "AvoidDiskWrites 1",
            "PathsNeededToBuildCircuits 0.67",
            "ClientUseIPv6 0",
        ]
        if n.kind == "client":
            lines += [f"SocksPort 127.0.0.1:{n.socks_port}"]
        else:
            lines += [
                "SocksPort 0",
                f"ORPort 127.0.0.1:{n.or_port} IPv4Only",
                "Address 127.0.0.1",
                "AddressDisableIPv6 1",
                "AssumeReachable 1",
                "ExtendAllowPrivateAddresses 1",
                "ExitRelay 1",
                "ExitPolicyRejectPrivate 0",
                # Clients take a relay for an exit only if its policy accepts public
                # addresses; bound to 127.0.0.1, it could connect to none.
                "ExitPolicy accept 127.0.0.0/8:*",
                "ExitPolicy reject private:*",
                "ExitPolicy accept *:*",
                "OutboundBindAddress 127.0.0.1",
                "ContactInfo private-test@example.invalid",
                "DoSCircuitCreationEnabled 0",
                "DoSConnectionEnabled 0",
                "DoSStreamCreationEnabled 0",
            ]
        if n.kind == "authority":
            params = ["cc_alg=2"] if self.congestion_control else []
            lines += [
                f"DirPort 127.0.0.1:{n.dir_port} IPv4Only",
                "AuthoritativeDirectory 1",
                "V3AuthoritativeDirectory 1",
                f"TestingV3AuthInitialVotingInterval {self.initial_interval}",
                "TestingV3AuthInitialVoteDelay 2",
                "TestingV3AuthInitialDistDelay 2",
                f"V3AuthVotingInterval {self.voting_interval}",
                "V3AuthVoteDelay 2",
                "V3AuthDistDelay 2",
                "V3AuthNIntervalsValid 10",
                "TestingDirAuthVoteExit *",
                "TestingDirAuthVoteHSDir *",
                "TestingDirAuthVoteGuard *",
                "TestingMinExitFlagThreshold 0",
                "AuthDirMaxServersPerAddr 0",
                # Without these two, only some relays get the Stable flag; if just
                # one does, and a client has it as its guard too, the client asks
                # for paths A-B-A, which B refuses, and stays at 95 % for minutes.
                "AuthDirVoteStableGuaranteeMinUptime 0",
                "AuthDirVoteStableGuaranteeMTBF 0",
                f"V3BandwidthsFile {self.dir / 'v3bw'}",
            ]
            if params:
                lines.append("ConsensusParams " + " ".join(params))
        return "\n".join(lines + self.extra) + "\n"

    # -- life

    def start(self) -> PrivateTorNetwork:
        self._t0 = time.monotonic()
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            dirauths = list(pool.map(self._authority_line, self.authorities))
            list(pool.map(self._fingerprint, self.relays))
        self._bandwidth_file()
        self._mark("keys_s")
        for n in self.nodes:
            (n.dir / "torrc").write_text(self._torrc(n, dirauths))
        # The first consensus takes in only the relays whose descriptors came
        # before the authorities' vote, 4 s before the end of a wall-clock
        # interval.  Starting just after an interval's start gives them time.
        late = time.time() % self.initial_interval
        if late > 1.5:
            time.sleep(self.initial_interval - late + 0.2)
        for n in self.authorities + self.relays:
            self._spawn(n)
        self._mark("relays_started_s")
        return self

    def _spawn(self, n: Node) -> None:
        # tor ends at once when its owning controller's connection closes, as it
        # does when this process ends, however that comes about.  (Not
        # __OwningControllerProcess: stem in that process would then send
        # TAKEOWNERSHIP and end tor with its first Controller that is closed.)
        ours, theirs = socket.socketpair()
        with theirs:
            n.proc = subprocess.Popen(
                [
                    self.tor,
                    "--quiet",
                    "-f",
                    str(n.dir / "torrc"),
                    "--defaults-torrc",
                    "/nonexistent",
                    "--ignore-missing-torrc",
                    "--__OwningControllerFD",
                    str(theirs.fileno()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        n.owner = ours

    def consensus_size(self, n: Node) -> int:
        try:
            return (n.dir / "cached-microdesc-consensus").read_text().count("\nr ")
        except OSError:
            return 0

    def wait_consensus(self, timeout: float = 180.0) -> None:
        """Every authority has a consensus that lists every relay."""
        end = time.monotonic() + timeout
        want = len(self.authorities) + len(self.relays)
        while not all(self.consensus_size(n) >= want for n in self.authorities):
            self._check()
            if time.monotonic() > end:
                raise TorNetworkError(
                    f"no consensus of {want} relays: {[self.consensus_size(n) for n in self.authorities]}"
                )
            time.sleep(0.2)
        self._mark("consensus_s")

    def _mark(self, what: str) -> None:
        self.times[what] = round(time.monotonic() - self._t0, 2)

    def _check(self) -> None:
        for n in self.nodes:
            if n.proc is not None and n.proc.poll() is not None:
                tail = n.log.read_text()[-2000:] if n.log.exists() else "(no log)"
                raise TorNetworkError(f"{n.name} exited with {n.proc.returncode}:\n{tail}")

    def control(self, n: Node, *commands: str, timeout: float = 10.0) -> list[str]:
        """Run control-port commands; the replies as text."""
        with ControlConnection(n, timeout) as c:
            return [c.command(x) for x in commands]

    def bootstrap_percent(self, n: Node) -> int:
        try:
            text = self.control(n, "GETINFO status/bootstrap-phase")[0]
            return int(text.split("PROGRESS=")[1].split()[0])
        except (OSError, IndexError, TorNetworkError):
            return 0

    def wait_bootstrapped(self, timeout: float = 180.0) -> None:
        end = time.monotonic() + timeout
        self.wait_consensus(timeout)
        self._wait_done(self.authorities + self.relays, end)
        self._mark("relays_done_s")
        for n in self.clients:
            self._spawn(n)
        time.sleep(0.5)
        self._wait_done(self.clients, end)
        self._mark("clients_done_s")

    def _wait_done(self, nodes: list[Node], end: float) -> None:
        waiting = list(nodes)
        hup = 0.0
        while waiting:
            self._check()
            if time.monotonic() >= hup:  # tor forgets its download failures at HUP
                for n in waiting:
                    if n.proc is not None:
                        n.proc.send_signal(signal.SIGHUP)
                hup = time.monotonic() + 3
            waiting = [n for n in waiting if self.bootstrap_percent(n) < 100]
            if waiting and time.monotonic() > end:
                raise TorNetworkError(
                    "not bootstrapped: " + ", ".join(f"{n.name} {self.bootstrap_percent(n)}%" for n in waiting)
                )
            if waiting:
                time.sleep(0.3)

    def publish(
        self,
        n: Node,
        ports: dict[int, tuple[str, int]],
        *,
        key: str = "NEW:ED25519-V3",
        uploads: int = 1,
        timeout: float = 120.0,
    ) -> str:
        """ADD_ONION on client `n`, and wait until its descriptor has been
        uploaded to `uploads` directories; the host name with .onion."""
        end = time.monotonic() + timeout
        with ControlConnection(n, timeout) as c:
            c.command("SETEVENTS HS_DESC")
            where = " ".join(f"Port={p},{h}:{q}" for p, (h, q) in ports.items())
            reply = c.command(f"ADD_ONION {key} Flags=Detach,DiscardPK {where}")
            name = reply.split("ServiceID=")[1].split()[0]
            while uploads:
                c.sock.settimeout(max(0.1, end - time.monotonic()))
                if f"UPLOADED {name}" in c.event():
                    uploads -= 1
        return name + ".onion"

    def unpublish(self, n: Node, host: str) -> None:
        self.control(n, f"DEL_ONION {host.removesuffix('.onion')}")

    def connect(
        self, n: Node, host: str, port: int, timeout: float = 60.0, isolate: str | None = None
    ) -> socket.socket:
        return socks5_connect(n.socks_port, host, port, timeout, isolate)

    def wait_ready(self, timeout: float = 240.0) -> None:
        """Bootstrapped, and an onion service on the last client answers the first."""
        end = time.monotonic() + timeout
        self.wait_bootstrapped(timeout)
        with socket.create_server(("127.0.0.1", 0)) as srv:
            threading.Thread(target=_answer, args=(srv,), daemon=True).start()
            host = self.publish(self.clients[-1], {80: srv.getsockname()}, timeout=max(1.0, end - time.monotonic()))
            self._mark("onion_published_s")
            while True:
                self._check()
                try:
                    with self.connect(self.clients[0], host, 80, timeout=30.0) as s:
                        s.sendall(b"ping\n")
                        if s.recv(5) == b"ping\n":
                            break
                except (OSError, TorNetworkError) as e:
                    self.last_error = e
                if time.monotonic() > end:
                    raise TorNetworkError(f"onion service not reachable: {self.last_error}")
                time.sleep(0.5)
            self._mark("onion_reachable_s")
            self.unpublish(self.clients[-1], host)

    def info(self) -> dict[str, Any]:
        return {
            "dir": str(self.dir),
            "times": self.times,
            "clients": [
                {
                    "name": n.name,
                    "pid": n.pid,
                    "socks_port": n.socks_port,
                    "control_port": n.control_port,
                    "cookie": str(n.cookie_path),
                }
                for n in self.clients
            ],
            "relays": [
                {"name": n.name, "pid": n.pid, "or_port": n.or_port, "control_port": n.control_port}
                for n in self.authorities + self.relays
            ],
        }

    def stop(self) -> None:
        for n in self.nodes:
            if n.owner is not None:
                n.owner.close()
            if n.proc is not None and n.proc.poll() is None:
                n.proc.terminate()
        end = time.monotonic() + 5
        for n in self.nodes:
            if n.proc is None:
                continue
            try:
                n.proc.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                n.proc.kill()
                n.proc.wait()
        if self._own_dir and not self.keep:
            shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self) -> PrivateTorNetwork:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _answer(srv: socket.socket) -> None:
    while True:
        try:
            c, _ = srv.accept()
        except OSError:
            return
        with c:
            try:
                c.sendall(c.recv(64))
            except OSError:
                pass
