"""Which traces are recorded."""

from __future__ import annotations

import pytest

from tests.support.peers import seeded
from tracing.sampling import Sampler, SamplerError, sampler_from


def test_the_ratio_is_kept_and_depends_on_the_id_alone() -> None:
    ids = [seeded(f"trace {number}")[:16] for number in range(10_000)]
    recorded = [Sampler(0.01).records(one) for one in ids]
    assert 60 <= sum(recorded) <= 140
    assert recorded == [Sampler(0.01).records(one) for one in ids]
    # Whoever samples more records what the other does.
    assert all(Sampler(0.1).records(one) for one, kept in zip(ids, recorded, strict=True) if kept)


@pytest.mark.parametrize("tail", [bytes(8), b"\xff" * 8])
def test_all_and_none(tail: bytes) -> None:
    assert Sampler(1.0).records(bytes(8) + tail)
    assert not Sampler(0.0).records(bytes(8) + tail)


@pytest.mark.parametrize(
    ("environ", "ratio"),
    [
        ({}, 0.5),
        ({"OTEL_TRACES_SAMPLER": ""}, 0.5),
        ({"OTEL_TRACES_SAMPLER": "always_on"}, 1.0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off", "OTEL_TRACES_SAMPLER_ARG": "0.7"}, 0.0),
        ({"OTEL_TRACES_SAMPLER": "TraceIdRatio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.25),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio"}, 1.0),
    ],
)
def test_the_standard_variables(environ: dict[str, str], ratio: float) -> None:
    assert sampler_from(environ, 0.5) == Sampler(ratio)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"OTEL_TRACES_SAMPLER": "jaeger_remote"}, "jaeger_remote"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1.5"}, "from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "nan"}, "from 0 to 1"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "half"}, "half"),
    ],
)
def test_what_is_wrong_is_named(environ: dict[str, str], named: str) -> None:
    with pytest.raises(SamplerError, match=named):
        sampler_from(environ, 1.0)
