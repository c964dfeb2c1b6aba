"""Peers of other implementations, as tests/interop has them."""

from tests.interop.conftest import built, cache, logs, start_peer

__all__ = ["built", "cache", "logs", "start_peer"]
