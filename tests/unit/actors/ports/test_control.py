"""Asking a node, whatever it does with the question."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from actors.ports.control import SOCKET, CommandFailed, NoNode, ask


class Eager:
    """A socket that connects, and lets what the node says and its hanging up come before anything is sent."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gone: threading.Event) -> None:
        connect = socket.socket.connect

        def slowly(sock: socket.socket, address: str) -> None:
            connect(sock, address)
            assert gone.wait(5.0)

        monkeypatch.setattr("socket.socket.connect", slowly)


@pytest.mark.parametrize("answer", [b'{"event": "failed", "reason": "not for you"}\n', b""])
def test_one_that_refuses_before_it_is_asked_is_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    gone = threading.Event()
    Eager(monkeypatch, gone)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / SOCKET))
        listener.listen()

        def refuse() -> None:
            client, _ = listener.accept()
            client.sendall(answer)
            client.close()
            gone.set()

        refusing = threading.Thread(target=refuse)
        refusing.start()
        with pytest.raises(CommandFailed if answer else NoNode, match="not for you" if answer else "ended"):
            ask(tmp_path, {"command": "status"})
        refusing.join()
