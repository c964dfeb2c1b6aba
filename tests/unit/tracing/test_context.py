"""W3C trace context: the format, to the letter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracing.context import TraceContext, decode_traceparent, encode_traceparent

# The example of the specification ("Examples of HTTP traceparent Headers").
EXAMPLE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e4736")
SPAN = bytes.fromhex("00f067aa0ba902b7")


def test_the_example_of_the_specification() -> None:
    assert decode_traceparent(EXAMPLE) == TraceContext(TRACE, SPAN, True)
    assert encode_traceparent(TRACE, SPAN, True) == EXAMPLE
    assert decode_traceparent(EXAMPLE[:-2] + "00") == TraceContext(TRACE, SPAN, False)


def test_unknown_flags_and_later_versions_are_read_as_far_as_they_are_known() -> None:
    assert decode_traceparent(EXAMPLE[:-2] + "ff") == TraceContext(TRACE, SPAN, True)
    assert decode_traceparent(EXAMPLE[:-2] + "fe") == TraceContext(TRACE, SPAN, False)
    assert decode_traceparent("cc" + EXAMPLE[2:] + "-what-the-future-will-be-like") == TraceContext(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        EXAMPLE.upper(),
        "ff" + EXAMPLE[2:],
        EXAMPLE + "-more",
        "cc" + EXAMPLE[2:] + ".more",
        EXAMPLE + "\n",
        EXAMPLE[:-1],
        "00-" + "0" * 32 + EXAMPLE[35:],
        EXAMPLE[:36] + "0" * 16 + "-01",
        EXAMPLE.replace("-", "_"),
        EXAMPLE[:-2] + "0\N{FULLWIDTH DIGIT ONE}",
    ],
)
def test_what_breaks_the_format_is_no_context(text: str) -> None:
    assert decode_traceparent(text) is None


@given(st.binary(min_size=16, max_size=16).filter(any), st.binary(min_size=8, max_size=8).filter(any), st.booleans())
def test_what_is_written_is_read(trace_id: bytes, span_id: bytes, sampled: bool) -> None:
    assert decode_traceparent(encode_traceparent(trace_id, span_id, sampled)) == TraceContext(
        trace_id, span_id, sampled
    )


@given(st.text(max_size=80))
def test_no_text_is_an_error(text: str) -> None:
    decode_traceparent(text)
