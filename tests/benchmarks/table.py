"""The figures as Markdown, and their place in the README."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tests.benchmarks.floor import Floor
from tests.benchmarks.workloads import BUSY_CIRCUITS, BUSY_RATE, MIB, WRITE_SIZES, Figures, bulk_name

BEGIN = "<!-- figures: written by run.py -->"
END = "<!-- end of the figures -->"
#: Clients that were busy for more of the time than this were the slower side.
CLIENTS_FULL = 0.9

Medians = Mapping[str, Mapping[str, Figures]]
_SIZES = {65536: "64 KiB", 16384: "16 KiB", 1200: "1.2 kB"}


def between_markers(text: str, figures: str) -> str:
    """`text` with the figures between its markers. ValueError when they are not there, in that order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no {BEGIN} ... {END}")
    return f"{before}{begin}\n\n{figures.strip()}\n\n{end}{after}"


def render(medians: Medians, floors: Sequence[Floor], about: Mapping[str, Any], warnings: Sequence[str] = ()) -> str:
    """Every table for which there are figures."""
    sheet = _Sheet(medians, list(about["relays"]), {one.size: one for one in floors})
    parts = [_head(about), *(f"**Not measured:** {one.splitlines()[0]}" for one in warnings)]
    parts += [part for part in (section(sheet) for section in _SECTIONS) if part]
    return "\n\n".join(parts) + "\n"


def _head(about: Mapping[str, Any]) -> str:
    relays = ", ".join(f"{name}: {title}" for name, title in about["relays"].items())
    amount = (
        "a quick run, which shows that everything works and no more"
        if about["quick"]
        else (f"medians of {about['repeats']}, in {about['minutes']} minutes")
    )
    return f"{about['date']}; {about['cpu']}, {about['cores']} cores, {about['kernel']}; {relays}; {amount}."


class _Sheet:
    """What the sections draw from."""

    def __init__(self, medians: Medians, relays: list[str], floors: dict[int, Floor]) -> None:
        self.medians = medians
        self.relays = relays
        self.floors = floors

    def has(self, *workloads: str) -> bool:
        return any(one in self.medians for one in workloads)

    def figures(self, workload: str, relay: str) -> Figures:
        return self.medians.get(workload, {}).get(relay, {})

    def row(self, title: str, workload: str, figure: Callable[[Figures], float | None], *more: str) -> str:
        """A line of a table: the figure for each relay, and more cells."""
        cells = [number(figure(found)) if (found := self.figures(workload, relay)) else "-" for relay in self.relays]
        return f"| {' | '.join([title, *cells, *more])} |"

    def table(self, title: str, rows: Sequence[str], *more: str) -> str:
        heads = [title, *self.relays, *more]
        rule = ["---"] + ["---:"] * (len(heads) - 1)
        return "\n".join([f"| {' | '.join(heads)} |", f"| {' | '.join(rule)} |", *rows])


def number(value: float | None) -> str:
    """Three digits that count; nothing where there is no figure."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _of(key: str) -> Callable[[Figures], float | None]:
    return lambda figures: figures.get(key)


def _less(key: str, without: float) -> Callable[[Figures], float | None]:
    return lambda figures: figures[key] - without


def _bulk_rows(sheet: _Sheet) -> list[tuple[str, str, int]]:
    """Title, workload and write size of each bulk workload that was run."""
    rows = []
    for size in WRITE_SIZES:
        for direction in ("push", "pull"):
            for circuits in (1, 16):
                plural = "s" if circuits > 1 else ""
                rows.append(
                    (
                        f"{_SIZES[size]}, {direction}, {circuits} circuit{plural}",
                        bulk_name(direction, circuits, size),
                        size,
                    )
                )
    rows.append(("16 KiB, push, 16 circuits of one pair of peers", "push 16x16384 shared", 16384))
    rows.append(("1.2 kB, push, 1 circuit, each written by itself", "push 1x1200 each", 1200))
    return [row for row in rows if sheet.has(row[1])]


def _cpu_per_byte(sheet: _Sheet) -> str:
    rows = []
    for title, workload, size in _bulk_rows(sheet):
        floor = sheet.floors[size].total if size in sheet.floors else None
        ours = sheet.figures(workload, "ours").get("relay_cpu_s_per_gib")
        ratio = ours / floor if ours and floor else None
        rows.append(sheet.row(title, workload, _of("relay_cpu_s_per_gib"), number(floor), number(ratio)))
    return sheet.table("relay CPU, s/GiB", rows, "floor", "ours / floor") if rows else ""


def _floor(sheet: _Sheet) -> str:
    lines = [
        "| floor, s/GiB | two passes of the cipher | socat, 64 KiB buffer | socat, a buffer of one write |",
        "| --- | ---: | ---: | ---: |",
    ]
    for size, one in sheet.floors.items():
        cells = [number(one.ciphers), number(one.sockets), number(one.sockets_each)]
        lines.append(f"| {' | '.join([_SIZES[size], *cells])} |")
    return "\n".join(lines) if sheet.floors and _bulk_rows(sheet) else ""


def _cpu_per_message(sheet: _Sheet) -> str:
    rows = [
        sheet.row(title, workload, _of("relay_cpu_us_per_write"))
        for title, workload, size in _bulk_rows(sheet)
        if size == 1200
    ]
    return sheet.table("relay CPU per 1.2 kB message, us", rows) if rows else ""


def _rates(sheet: _Sheet) -> str:
    rows = [sheet.row(title, workload, _of("rate_mib_per_s")) for title, workload, _ in _bulk_rows(sheet)]
    return sheet.table("rate, MiB/s", rows) if rows else ""


def _clients(sheet: _Sheet) -> str:
    rows = [sheet.row(title, workload, _of("client_cpu_s_per_gib")) for title, workload, _ in _bulk_rows(sheet)]
    if not rows:
        return ""
    full = [
        f"{title} against {relay}"
        for title, workload, _ in _bulk_rows(sheet)
        for relay in sheet.relays
        if sheet.figures(workload, relay).get("client_busy_ratio", 0.0) > CLIENTS_FULL
    ]
    told = (
        f"The clients filled their core, so the rate is theirs: {'; '.join(full)}."
        if full
        else ("The clients never filled their core: the rates are the relays'.")
    )
    return sheet.table("both clients' CPU, s/GiB", rows) + "\n\n" + told


def _round_trips(sheet: _Sheet) -> str:
    rows = []
    beside = {
        "ping idle": "idle",
        "ping busy": f"beside {BUSY_CIRCUITS} circuits that carry {BUSY_RATE // MIB} MiB/s",
        "ping at once": f"{BUSY_CIRCUITS} circuits at once",
    }
    for workload, title in beside.items():
        if not sheet.has(workload):
            continue
        direct = sheet.figures(workload, "direct")
        for percentile in ("p50", "p99"):
            without = direct.get(f"{percentile}_us", 0.0)
            added = _less(f"{percentile}_us", without)
            rows.append(sheet.row(f"{percentile}, {title}", workload, added, number(without)))
    return sheet.table("round trip added, us", rows, "without a relay") if rows else ""


def _churn(sheet: _Sheet) -> str:
    titles = {
        "connects": "connection, identified, closed",
        "reserves": "reservation on a connection",
        "circuits": "circuit, opened and closed",
    }
    rows = [
        sheet.row(title, workload, _of("relay_cpu_ms_each"))
        for workload, title in titles.items()
        if sheet.has(workload)
    ]
    return sheet.table("relay CPU, ms", rows) if rows else ""


def _memory(sheet: _Sheet) -> str:
    rows = []
    if sheet.has("idle"):
        rows.append(sheet.row("ready after, s", "idle", _of("ready_s")))
        rows.append(sheet.row("CPU when idle, %", "idle", _of("idle_cpu_percent")))
    seen = [key for relay in sheet.relays for key in sheet.figures("reservations", relay)]
    for key in dict.fromkeys(key for key in seen if key.startswith("rss_mib_at_")):
        count = int(key.rsplit("_", 1)[1])
        rows.append(sheet.row(f"RSS with {count:,} reservations, MiB", "reservations", _of(key)))
    if sheet.has("reservations"):
        rows.append(sheet.row("RSS for each of them, KiB", "reservations", _of("kib_each")))
        rows.append(sheet.row("held in the time there was", "reservations", _of("held")))
    return sheet.table("start and memory", rows) if rows else ""


def _stall(sheet: _Sheet) -> str:
    if not sheet.has("stall"):
        return ""
    rows = [
        sheet.row(
            "taken for the stalled circuit beyond what its reader's window let through, MiB", "stall", _of("held_mib")
        ),
        sheet.row("growth of RSS meanwhile, MiB", "stall", _of("rss_growth_mib")),
        sheet.row("rate of the other three, of what it was, %", "stall", lambda f: 100 * f["others_kept_ratio"]),
        sheet.row("of the other three failed", "stall", _of("others_failed")),
    ]
    return sheet.table("a stalled reader", rows)


_SECTIONS: tuple[Callable[[_Sheet], str], ...] = (
    _cpu_per_byte,
    _cpu_per_message,
    _round_trips,
    _churn,
    _memory,
    _stall,
    _floor,
    _rates,
    _clients,
)
