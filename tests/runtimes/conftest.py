"""Ray is started once for all tests of runtimes: it takes two seconds."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ray_node import RayNode

if TYPE_CHECKING:
    from actors.runtime.ray import RaySession


@pytest.fixture(scope="session")
def ray_session() -> Iterator[RaySession]:
    if importlib.util.find_spec("ray") is None:  # to import it here would be too early: see actors/runtime/ray.py
        pytest.skip("needs the extra `ray`")
    from actors.runtime.ray import RaySession

    session = RaySession(["tests.runtimes.stage"], logging.WARNING)
    yield session
    session.stop()


@pytest.fixture
def start_ray(tmp_path: Path) -> Iterator[Callable[..., RayNode]]:
    """What starts a node of several processes, with its flags."""
    nodes: list[RayNode] = []

    def run(*flags: str, stderr: Path | None = None, variables: dict[str, str] | None = None) -> RayNode:
        nodes.append(RayNode(tmp_path / f"node{len(nodes)}", *flags, stderr=stderr, variables=variables))
        return nodes[-1]

    yield run
    for node in nodes:
        node.stop()
