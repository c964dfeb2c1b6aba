"""What an experiment found, as Markdown and as a plot, and their places in the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

HERE = Path(__file__).parent
README = HERE / "README.md"
PLOTS = HERE / "plots"

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 36, 44
COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#a463f2")

Series = Mapping[str, Sequence[tuple[float, float]]]


@dataclass(frozen=True)
class Plot:
    """``series``: points of each line by its name; with ``labels`` they are bars, the first number of a point being
    that of its label.  ``bound``: a line that is not to be crossed."""

    title: str
    x: str
    y: str
    series: Series
    labels: Sequence[str] = ()
    bound: float | None = None


@dataclass(frozen=True)
class Report:
    """``said``: how it was run, and what it says.  ``cpu``: seconds."""

    name: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    plot: Plot
    said: str
    cpu: float = 0.0
    bounds: Sequence[str] = field(default=())

    def table(self) -> str:
        lines = [self.columns, ["---", *["---:"] * (len(self.columns) - 1)], *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def markdown(self) -> str:
        parts = [self.said, self.table(), *(f"Bound: {one}" for one in self.bounds)]
        parts += [f"![{self.plot.title}](plots/{self.name}.svg)", f"({self.cpu:.0f} CPU-s)"]
        return "\n\n".join(parts)

    def write(self) -> None:
        """Into the README, in place of what was there, and beside it."""
        PLOTS.mkdir(exist_ok=True)
        (PLOTS / f"{self.name}.svg").write_text(svg(self.plot))
        README.write_text(between(README.read_text(), self.name, self.markdown()))


def between(text: str, name: str, figures: str) -> str:
    """``text`` with ``figures`` between the markers of ``name``.  ValueError when they are not there."""
    begin, end = f"<!-- {name}: written by experiments.py -->", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the README has no {begin} ... {end}")
    return f"{before}{begin}\n\n{figures.strip()}\n\n{end}{after}"


def svg(plot: Plot) -> str:
    """Readable on a light and on a dark page."""
    points = [point for line in plot.series.values() for point in line]
    highest = max([y for _, y in points] + ([plot.bound] if plot.bound is not None else [])) or 1.0
    highest *= 1.1
    first, last = min(x for x, _ in points), max(x for x, _ in points)
    if plot.labels:
        first, last = -0.5, len(plot.labels) - 0.5

    def across(x: float) -> float:
        return LEFT + (x - first) / ((last - first) or 1.0) * (WIDTH - LEFT - RIGHT)

    def up(y: float) -> float:
        return HEIGHT - BOTTOM - y / highest * (HEIGHT - TOP - BOTTOM)

    def text(x: float, y: float, said: str, anchor: str = "middle", more: str = "") -> str:
        return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{more}>{escape(said)}</text>'

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        'font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        text(WIDTH / 2, 20, plot.title, more=' font-size="14"'),
        text((WIDTH + LEFT - RIGHT) / 2, HEIGHT - 8, plot.x),
        text(14, HEIGHT / 2, plot.y, more=f' transform="rotate(-90 14 {HEIGHT / 2:.0f})"'),
    ]
    for step in range(5):
        y = highest * step / 4
        parts.append(
            f'<line x1="{LEFT}" y1="{up(y):.1f}" x2="{WIDTH - RIGHT}" y2="{up(y):.1f}" stroke="#ddd"/>'
            + text(LEFT - 6, up(y) + 4, f"{y:.3g}", "end")
        )
    places = (
        list(enumerate(plot.labels))
        if plot.labels
        else [(first + (last - first) * n / 6, f"{first + (last - first) * n / 6:.3g}") for n in range(7)]
    )
    parts += [text(across(x), HEIGHT - BOTTOM + 16, label) for x, label in places]
    bar = (across(1) - across(0)) * 0.8 / max(len(plot.series), 1)
    for number, (name, line) in enumerate(plot.series.items()):
        colour = COLOURS[number % len(COLOURS)]
        if plot.labels:
            for x, y in line:
                begin = across(x) + (number - len(plot.series) / 2) * bar
                parts.append(
                    f'<rect x="{begin:.1f}" y="{up(y):.1f}" width="{bar:.1f}" height="{up(0) - up(y):.1f}" '
                    f'fill="{colour}"/>'
                )
        else:
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in line)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<rect x="{WIDTH - RIGHT + 10}" y="{TOP + 18 * number}" width="12" height="12" fill="{colour}"/>')
        parts.append(text(WIDTH - RIGHT + 28, TOP + 10 + 18 * number, name, "start"))
    if plot.bound is not None:
        y = up(plot.bound)
        parts.append(
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#c00" stroke-dasharray="6 4"/>'
            + text(WIDTH - RIGHT + 10, y + 4, "bound", "start", ' fill="#c00"')
        )
    return "\n".join([*parts, "</svg>\n"])
