"""`python -m tests.benchmarks.run`: measure this relay beside the go, rust and js ones, and write the table.

Every workload runs against each relay in turn before the next workload begins, and all of it is repeated, so that what
else the machine does falls on all alike. Relays have one core and the clients the others, where there are others.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks import floor, generator, procfs, relays, table, workloads
from tests.benchmarks.relays import IMPLEMENTATIONS, BuildError, Relay
from tests.benchmarks.workloads import Figures, Scale, Seat, Workload

DIRECT = "direct"
README = Path(__file__).parent / "README.md"
#: Errors that spoil one measurement and not the run.
SPOILED = (generator.LoadError, ProcessLookupError, RuntimeError, OSError)


class Run:
    """The relays of one run and the figures so far: workload, then relay, then one dictionary a repeat."""

    def __init__(self, names: Sequence[str], scale: Scale, cache: Path, scratch: Path) -> None:
        self.names = list(names)
        self.scale = scale
        self.samples: dict[str, dict[str, list[Figures]]] = {}
        self.errors: list[str] = []
        self._cache = cache
        self._scratch = scratch
        self._relay_cores, self._client_cores = procfs.cores()
        # What the harness itself does falls on the clients' cores.
        os.sched_setaffinity(0, self._client_cores)
        self._running: dict[str, Relay] = {}
        self._started = 0

    def measure(self, workload: Workload, repeat: int) -> None:
        """Run a workload against every relay. What goes wrong is kept in `errors`, and costs that measurement only."""
        # Nobody is always first.
        turn = repeat % len(self.names)
        seats = [*self.names[turn:], *self.names[:turn]]
        if workload.direct:
            seats.append(DIRECT)
        for name in seats:
            began = time.monotonic()
            relay: Relay | None = None
            try:
                if name != DIRECT:
                    relay = self._start(name) if workload.fresh else self._keep(name)
                figures = workload.measure(Seat(relay, self._cache, self._client_cores, self.scale.timeout))
            except SPOILED as error:
                log = relay.tail() if relay else ""
                self.errors.append(f"{workload.name}, {name}: {error}")
                say(f"  {workload.name:22} {name:7} FAILED: {error}\n{log}")
                self._drop(name)
            else:
                self.samples.setdefault(workload.name, {}).setdefault(name, []).append(figures)
                shown = ", ".join(f"{key} {value:.4g}" for key, value in list(figures.items())[:4])
                say(f"  {workload.name:22} {name:7} {time.monotonic() - began:5.1f} s  {shown}")
            finally:
                if workload.fresh and relay is not None:
                    relay.stop()

    def medians(self) -> dict[str, dict[str, Figures]]:
        """The median of each figure over the repeats."""
        return {
            workload: {
                name: {key: statistics.median(one[key] for one in samples if key in one) for key in _keys(samples)}
                for name, samples in by_relay.items()
            }
            for workload, by_relay in self.samples.items()
        }

    def stop(self) -> None:
        """End the relays."""
        for name in list(self._running):
            self._drop(name)

    def floors(self) -> list[floor.Floor]:
        """The floor at each write size."""
        found = []
        for size in workloads.WRITE_SIZES:
            found.append(floor.measure(size, self.scale.floor_bytes, self._relay_cores, self._client_cores))
            say(f"  floor {found[-1]}")
        return found

    def _keep(self, name: str) -> Relay:
        relay = self._running.get(name)
        if relay is None or not relay.alive:
            relay = self._running[name] = self._start(name)
        return relay

    def _start(self, name: str) -> Relay:
        self._started += 1
        state = self._scratch / f"{name}-{self._started}"
        return Relay(IMPLEMENTATIONS[name], self._cache, state, self._relay_cores)

    def _drop(self, name: str) -> None:
        relay = self._running.pop(name, None)
        if relay is not None:
            relay.stop()


def _keys(samples: Sequence[Figures]) -> list[str]:
    """Every figure's name, in order: one that a run could not take may be in another's."""
    return list(dict.fromkeys(key for one in samples for key in one))


def say(line: str) -> None:
    """Progress goes to stderr: stdout has the table."""
    print(line, file=sys.stderr, flush=True)


def build(names: Sequence[str], cache: Path) -> list[str]:
    """Build the load and the relays. Those that cannot be built here are left out, loudly. BuildError without load."""
    say("building the load generator")
    generator.build(cache)
    built = []
    for name in names:
        one = IMPLEMENTATIONS[name]
        if one.folder is not None:
            say(f"building the {name} relay")
            try:
                relays.build(one.folder, one.needs, one.install, cache)
            except BuildError as error:
                say(f"!!! LEFT OUT: {name}: {error}")
                continue
        built.append(name)
    return built


def chosen(scale: Scale, only: str | None) -> list[Workload]:
    """The workloads whose name begins with `only`."""
    return [one for one in workloads.all_workloads(scale) if only is None or one.name.startswith(only)]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--relays", default="ours,go,rust,js", help="which, with commas between (default: %(default)s)")
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes: shows that everything works, measures nothing"
    )
    parser.add_argument(
        "--only", metavar="WORKLOAD", help="those whose name begins so: push, ping, stall, 'pull 16x' ..."
    )
    parser.add_argument("--repeats", type=int, help="instead of the usual three")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where table.md and figures.json go (default: print only)"
    )
    parser.add_argument("--write-readme", action="store_true", help="put the table into the README of this folder")
    asked = parser.parse_args(argv)
    asked.relays = asked.relays.split(",")
    unknown = [name for name in asked.relays if name not in IMPLEMENTATIONS]
    if unknown:
        parser.error(f"--relays: no {', '.join(unknown)}; there are {', '.join(IMPLEMENTATIONS)}")
    if not chosen(workloads.QUICK, asked.only):
        parser.error(f"--only: none begins with {asked.only!r}")
    if asked.repeats is not None and asked.repeats < 1:
        parser.error("--repeats: at least 1")
    return asked


def main(argv: Sequence[str] | None = None) -> int:
    """0: everything was measured; 1: something was not, and the end of stderr says what."""
    asked = parse(argv)
    scale = workloads.QUICK if asked.quick else workloads.FULL
    repeats = asked.repeats or scale.repeats
    cache = relays.cache_dir()
    procfs.open_many_files()
    hints = floor.missing()
    for hint in hints:
        say(f"!!! {hint}")
    try:
        names = build(asked.relays, cache)
    except BuildError as error:
        say(f"!!! {error}")
        return 1
    if not names:
        return 1
    relay_cores, client_cores = procfs.cores()
    if relay_cores == client_cores:
        say("!!! ONE CORE for relays and clients: CPU times still count, rates and round trips do not")
    began = time.time()
    with tempfile.TemporaryDirectory(prefix="descord-benchmark-") as scratch:
        run = Run(names, scale, cache, Path(scratch))
        try:
            floors = run.floors() if any(one.bulk for one in chosen(scale, asked.only)) else []
            for repeat in range(repeats):
                say(f"repeat {repeat + 1} of {repeats}")
                for workload in chosen(scale, asked.only):
                    if repeat == 0 or not workload.once:
                        run.measure(workload, repeat)
        finally:
            run.stop()
    about: dict[str, Any] = {
        **procfs.machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime(began)),
        "minutes": round((time.time() - began) / 60, 1),
        "quick": asked.quick,
        "repeats": repeats,
        "relays": {name: IMPLEMENTATIONS[name].title for name in names},
    }
    markdown = table.render(run.medians(), floors, about, [*hints, *run.errors])
    print(markdown)
    if asked.out:
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "table.md").write_text(markdown)
        figures = {
            "about": about,
            "floor": [asdict(one) for one in floors],
            "median": run.medians(),
            "samples": run.samples,
            "errors": run.errors,
        }
        (asked.out / "figures.json").write_text(json.dumps(figures, indent=1) + "\n")
    if asked.write_readme:
        README.write_text(table.between_markers(README.read_text(), markdown))
    for spoiled in run.errors:
        say(f"!!! NOT MEASURED: {spoiled}")
    return 1 if run.errors or len(names) < len(asked.relays) else 0


if __name__ == "__main__":
    sys.exit(main())
