"""Measures this relay beside others on one machine: `python -m tests.benchmarks.run`. README.md says what each row means."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import CACHE, CLIENT_CORE, RELAY_CORE, RunningRelay
from tests.benchmarks.contenders import REPOSITORY, Relay, known
from tests.benchmarks.workloads import FULL, QUICK, WORKLOADS, Bench, Row

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- results begin -->", "<!-- results end -->"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _figure(value: float | None) -> str:
    if value is None:
        return "failed"
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def table(rows: Sequence[Row], relays: Sequence[str]) -> str:
    """The rows as Markdown, a heading for each group. A `*` marks clients that had no core left."""
    lines = []
    for group, some in groupby(rows, key=lambda row: row.group):
        of_group = list(some)
        with_floor = any(row.floor is not None for row in of_group)
        heads = [group, "unit", *relays, *(["floor"] if with_floor else [])]
        lines += ["", f"| {' | '.join(heads)} |", f"| {' | '.join(['---', '---', *['---:'] * (len(heads) - 2)])} |"]
        for row in of_group:
            cells = [_figure(row.figures.get(name)) + ("*" if name in row.bound else "") for name in relays]
            cells += [_figure(row.floor) if row.floor is not None else ""] if with_floor else []
            lines.append(f"| {row.title} | {row.unit} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _commit() -> str:
    ran = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    return ran.stdout.strip()


def circumstances(relays: Sequence[Relay], quick: bool) -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 1),
        "quick": quick,
        "relays": {relay.name: relay.version for relay in relays},
    }


def render(of: Mapping[str, Any], rows: Sequence[Row]) -> str:
    versions = ", ".join(f"{name}: {version}" for name, version in of["relays"].items())
    scale = "one quick run" if of["quick"] else f"medians of {FULL.repeats} runs"
    head = f"{of['when'][:10]}, {of['commit']}; {of['processor']}, {of['cores']} cores; {versions}; {scale}."
    return f"{head}\n\n{table(rows, list(of['relays']))}\n"


def choose(names: Sequence[str]) -> list[Relay]:
    """The relays of these names, built. One whose toolchain is missing is left out, and said so."""
    chosen = []
    for name in names:
        relay = known()[name]
        if not relay.buildable:
            say(f"LEFT OUT: the {name} relay needs {relay.tool}, which is not installed")
            continue
        relay.prepare()
        chosen.append(relay)
    return chosen


def measure(relays: Sequence[Relay], names: Sequence[str], quick: bool) -> list[Row]:
    by_name = {relay.name: relay for relay in relays}

    def start(name: str) -> RunningRelay:
        return RunningRelay(name, by_name[name].command, REPOSITORY)

    rows: list[Row] = []
    with ExitStack() as running:
        started = {}
        for name in by_name:
            started[name] = start(name)
            running.callback(started[name].stop)
        bench = Bench(started, start, QUICK if quick else FULL, say)
        for name in names:
            say(f"{datetime.now():%H:%M:%S} {name}")
            found = WORKLOADS[name](bench)
            rows += found
            say(table(found, list(by_name)))
    return rows


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description=__doc__)
    parser.add_argument("--relays", default="ours,go,rust,js", help="which, by commas (default: %(default)s)")
    parser.add_argument("--quick", action="store_true", help="one run of each, less of it")
    parser.add_argument("--only", action="append", choices=WORKLOADS, help="these groups of rows; repeatable")
    parser.add_argument("--write-readme", action="store_true", help="put the tables into README.md, the figures beside it")
    options = parser.parse_args(arguments)
    options.relays = options.relays.split(",")
    unknown = sorted(set(options.relays) - set(known()))
    if unknown:
        parser.error(f"--relays: no relay {', '.join(unknown)}; there are {', '.join(known())}")
    return options


def save(of: Mapping[str, Any], rows: Sequence[Row], write_readme: bool) -> None:
    text = render(of, rows)
    figures = json.dumps({**of, "rows": [asdict(row) for row in rows]}, indent=1) + "\n"
    folder = CACHE / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / str(of["when"]).replace(":", "").split("+")[0]
    stem.with_suffix(".md").write_text(text)
    stem.with_suffix(".json").write_text(figures)
    say(f"saved {stem}.md and .json")
    if write_readme:
        before, _, rest = README.read_text().partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{rest.partition(END)[2]}")
        (HERE / "results.json").write_text(figures)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if shutil.which("go") is None:
        say("the clients are a Go program: install Go 1.26 or newer, https://go.dev/dl")
        return 2
    subprocess.run([str(HERE / "clients" / "build.sh")], check=True)
    relays = choose(options.relays)
    if RELAY_CORE == CLIENT_CORE:
        say("ONE CORE: relay and clients share it; CPU time still counts, round trips and rates do not")
    of = circumstances(relays, options.quick)
    rows = measure(relays, options.only or list(WORKLOADS), options.quick)
    print(render(of, rows))
    save(of, rows, options.write_readme)
    return 0 if all(value is not None for row in rows for value in row.figures.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
