"""The Ray of tests/runtimes/ serves here too."""

from tests.runtimes.conftest import ray_session

__all__ = ["ray_session"]
