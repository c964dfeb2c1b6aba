"""Any bytes in any cuts, guided by hypothesis."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import SEEDS, TARGETS

#: Those that build a relay and its peers for each try.
SLOW = {"raw connection", "sealed connection", "forwarder", "settings"}


@st.composite
def mutated(draw: st.DrawFn, seeds: tuple[bytes, ...]) -> bytes:
    """A good input with a few bytes changed, cut out or put in."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@pytest.mark.parametrize("name", TARGETS)
def test_any_bytes_are_borne(name: str) -> None:
    inputs = st.binary(max_size=400)
    if name in SEEDS:
        inputs |= mutated(SEEDS[name])

    @settings(
        max_examples=25 if name in SLOW else 200,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def bears(data: bytes) -> None:
        TARGETS[name](data)

    for seed in SEEDS.get(name, ()):
        TARGETS[name](seed)
    bears()
