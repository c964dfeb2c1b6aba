"""What a node reports, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from actors.node_mode import mode_words
from actors.relay_mode import CLIENT_ONLY

#: Reasons of a kind that a line for people names.
SHOWN: Final = 4

NO_RELAYS: Final = "No relay was found: peers behind NAT cannot be reached through this node, nor reach others."

HELP: Final = (
    "The network needs relays: `descord-relay mode cooperative` makes this node one. It goes on looking for others. "
    "To give it some: --public-relays."
)


def line(report: dict[str, Any]) -> str:
    """A report as a person reads it."""
    if report["event"] == "actors":
        return f"{report['actor']} is up, in process {report['actors'].get(report['actor'])}"
    if report["event"] == "upgraded":
        moved = f"{report['connections']} connections and {report['circuits']} circuits"
        return f"{report['version']} took over, with {moved}. Its process id is {report['pid']}."
    if report["event"] == "upgrade_failed":
        return f"The upgrade failed, this process goes on: {report['reason']}"
    if report["event"] == "restarted":
        text = f"{report['forwarders']} forwarders began anew in {report['seconds']:.1f} s, "
        return f"{text}with {report['connections']} connections and {report['circuits']} circuits."
    if report["event"] == "restart_failed":
        return f"Nothing was restarted, or not all: {report['reason']}"
    if report["event"] == "no_relays":
        return "\n".join([NO_RELAYS, *(f"  {problem}" for problem in report["problems"]), HELP])
    if report["event"] == "relays_found":
        return f"{report['relays']} relays were found, the best of them {report['best']}."
    if report["event"] == "helping":
        return f"This node relays for others from now on, as {report['file']} says. `descord-relay mode` changes it."
    if "circuits" not in report and "addresses" not in report:
        return "RelayServer does not answer"
    if "addresses" in report:
        addresses = "\n".join(f"  {address}" for address in report["addresses"])
        if warning := report.get("warning"):
            addresses += f"\nWARNING: {warning}"
        if report["event"] == "ready" and report["mode"] == CLIENT_ONLY:
            return f"{report['version']} is ready, and relays for nobody (mode = {CLIENT_ONLY}). It is at:\n{addresses}"
        if report["event"] == "ready":
            return f"{report['version']} is ready. Peers reserve and dial through:\n{addresses}"
        return f"The addresses have changed. Peers reserve and dial through:\n{addresses}"
    return (
        f"{report['circuits']} circuits, "
        + (f"{report['bytes_per_second'] / 1e6:.1f} MB/s, " if "bytes_per_second" in report else "")
        + f"{report['reservations']} reservations, {report['connections']} connections, "
        f"{report['bytes'] / 1e9:.2f} GB relayed"
        + "".join(_counted(report.get(kind, {}), text) for kind, text in _COUNTED)
        + (f"; {words}" if (words := mode_words(report)) else "")
    )


_COUNTED: Final = (
    ("refusals", "refused"),
    ("failures", "circuits failed"),
    ("lost", "connections given up"),
    ("errors", "peers' errors"),
)


def _counted(counts: Mapping[str, int], text: str) -> str:
    """``, 5 refused (max_reservations_per_ip 3, no_reservation 2)``; nothing when there was nothing."""
    reasons = sorted(((name, n) for name, n in counts.items() if n), key=lambda entry: (-entry[1], entry[0]))
    shown = [f"{name} {n}" for name, n in reasons[:SHOWN]] + ["..."] * (len(reasons) > SHOWN)
    return f", {sum(n for _, n in reasons)} {text} ({', '.join(shown)})" if reasons else ""
