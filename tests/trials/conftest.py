"""The Ray of tests/runtimes/, and what starts its nodes, serve here too."""

from tests.runtimes.conftest import ray_session, start_ray

__all__ = ["ray_session", "start_ray"]
