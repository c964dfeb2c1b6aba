"""Who broke the protocol: we, or the peer.

A :class:`LocalProtocolError` is a fault in the code that called a machine.  A :class:`RemoteProtocolError` is about
bytes that came from outside; it ends the stream or connection that they came on, and nothing else.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Either of the two."""


class LocalProtocolError(ProtocolError):
    """A machine was asked for something that its state or the protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow.  ``code``: a short, stable word for counters."""

    def __init__(self, message: str, code: str = "malformed") -> None:
        super().__init__(message)
        self.code = code

    def bare(self) -> RemoteProtocolError:
        """The same without what led to it.  A machine that keeps an error keeps this one, and raises another each time:
        a traceback holds every frame, with the machine and the bytes in it, until the garbage collector comes by."""
        return RemoteProtocolError(str(self), self.code)
