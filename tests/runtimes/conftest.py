"""Ray is started once for all tests of runtimes: it takes two seconds."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

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
