"""`python -m tests.interop.jaeger.picture FILE.svg`: the trace of a bridged circuit that was handed off, as a real
Jaeger gives it back.

Jaeger's Go module has no web page, so this draws what its query API answers: a line a span, by time.  The relay has two
forwarders; the circuit is used a little before they are restarted, and a little after.
"""

from __future__ import annotations

import bisect
import itertools
import os
import signal
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import Any

from tests.interop.jaeger import server
from tests.support.process import NodeProcess, SocketPeer

WIDTH, LABELS, ROW = 980, 300, 34

#: Microseconds of silence that are drawn.
CUT = 5000
COLOURS = ("#4878a8", "#b8733c", "#5c8f5a", "#8a6aa8")


class Axis:
    """From a time, in microseconds, to a place.  Where nothing happens for long the axis is cut."""

    def __init__(self, trace: dict[str, Any]) -> None:
        times = {time for span in trace["spans"] for time in (span["startTime"], span["startTime"] + span["duration"])}
        times |= {log["timestamp"] for span in trace["spans"] for log in span["logs"]}
        self._times = sorted(times)
        gaps = [b - a for a, b in itertools.pairwise(self._times)]
        shown = [min(gap, CUT) for gap in gaps]
        scale = (WIDTH - LABELS - 130) / max(sum(shown), 1)
        self._places = [LABELS + scale * sum(shown[:index]) for index in range(len(times))]
        #: Where it is cut, and how many milliseconds are left out.
        self.cuts = [
            ((self._places[index] + self._places[index + 1]) / 2, (gap - CUT) / 1000)
            for index, gap in enumerate(gaps)
            if gap > CUT
        ]

    def __call__(self, time: int) -> float:
        return self._places[bisect.bisect_left(self._times, time)]


def svg(trace: dict[str, Any]) -> str:
    """``trace``: one of the list ``data`` of /api/traces."""
    spans = sorted(trace["spans"], key=lambda span: (bool(span["references"]), span["startTime"], -span["duration"]))
    begin = spans[0]["startTime"]
    end = max(span["startTime"] + span["duration"] for span in spans)
    axis = Axis(trace)
    processes = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(sorted(trace["processes"]))}
    height = ROW * (len(spans) + 1) + 10
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        'font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="22" fill="#444444">trace {trace["traceID"]}, {(end - begin) / 1000:.1f} ms, '
        f"{len(processes)} processes</text>",
    ]
    for row, span in enumerate(spans, 1):
        tags = {tag["key"]: tag["value"] for tag in span["tags"]}
        top = row * ROW
        left = axis(span["startTime"])
        width = max(axis(span["startTime"] + span["duration"]) - left, 2)
        where = tags.get("descord.forwarder", "relay_server")
        indent = 10 if not span["references"] else 26
        out.append(f'<text x="{indent}" y="{top + 14}" fill="#111111">{escape(span["operationName"])}</text>')
        out.append(f'<text x="150" y="{top + 14}" fill="#777777">{escape(str(where))}</text>')
        colour = processes[span["processID"]]
        out.append(f'<rect x="{left:.1f}" y="{top + 3}" width="{width:.1f}" height="14" rx="2" fill="{colour}"/>')
        text = f"{span['duration'] / 1000:.2f} ms" if span["duration"] > 1 else "decided"
        out.append(f'<text x="{left + width + 5:.1f}" y="{top + 14}" fill="#444444">{text}</text>')
        for index, log in enumerate(span["logs"]):
            fields = {field["key"]: field["value"] for field in log["fields"]}
            at = axis(log["timestamp"])
            out.append(f'<circle cx="{at:.1f}" cy="{top + 10}" r="4" fill="#ffffff" stroke="#111111"/>')
            label = " ".join(
                str(value) for key, value in fields.items() if (fields.get("event"), key) != ("hand-off", "to")
            )
            anchor = "start" if index else "end"  # those that are close do not cover each other
            out.append(
                f'<text x="{at:.1f}" y="{top + 29}" fill="#777777" font-size="11" text-anchor="{anchor}">'
                f"{escape(label)}</text>"
            )
    for place, left_out in axis.cuts:
        out.append(
            f'<rect x="{place - 3:.1f}" y="{ROW - 6}" width="6" height="{height - ROW}" fill="#ffffff"/>'
            f'<text x="{place:.1f}" y="{ROW - 12}" fill="#777777" font-size="11" text-anchor="middle">'
            f"{left_out:.0f} ms cut</text>"
        )
    return "\n".join([*out, "</svg>\n"])


def bridged_circuit() -> dict[str, Any]:
    """Run Jaeger and a relay, and restart its forwarders while circuits stand; the trace of one that was bridged."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "descord-relay-interop"
    with tempfile.TemporaryDirectory() as folder:
        jaeger = server.Jaeger(server.build(cache), Path(folder) / "jaeger.log")
        os.environ.update(jaeger.environment("grpc"))
        node = NodeProcess(Path(folder) / "node", "--forwarders", "2", "--rate-limits", "off")
        try:
            bob = SocketPeer(node, "bob")
            diallers = [SocketPeer(node, f"alice {number}") for number in range(8)]
            for peer in (bob, *diallers):
                peer.reserve()  # what is reached itself does not move to whom it dials
            circuits = [(alice, *alice.circuit(bob)) for alice in diallers]
            for alice, here, there in circuits:
                here.send(b"x" * 100_000)
                alice.pass_on(bob, lambda: len(there.received) == 100_000)  # noqa: B023
            node.process.send_signal(signal.SIGHUP)
            while node.event()["event"] != "restarted":
                pass
            for alice, here, there in circuits:
                there.send(b"y")
                here.finish()
                there.finish()
                alice.pass_on(bob, lambda: here.finished and there.finished)  # noqa: B023

            def bridged() -> dict[str, Any] | None:
                traces = jaeger.traces("descord-relay", "bridge.connect")
                whole = [trace for trace in traces if len(trace["spans"]) == 7]
                return whole[-1] if whole else None

            found: dict[str, Any] = jaeger.until(bridged, "no circuit was bridged")
            return found
        finally:
            node.stop()
            jaeger.stop()


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(svg(bridged_circuit()))
