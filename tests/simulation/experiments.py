"""Experiments with many nodes in virtual time: `python -m tests.simulation.experiments NAME... [--seed N] [--write]`.

Each prints its table; `--write` puts it, and its plot, into tests/simulation/README.md, which says what each is.  `all`
runs every one: three quarters of an hour of one core.  A seed repeats a run.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, median, quantiles

from tests.simulation.choice import dropper, liar, spread
from tests.simulation.eclipse import Eclipse
from tests.simulation.found import Found, new_relays, partition
from tests.simulation.priority import KINDS, SLOTS, helpers, sybils
from tests.simulation.report import Plot, Report

HOURS = 2.0


def found(seed: int) -> Report:
    rows, trips = [], []
    for nodes, hours, looks in ((200, 1.0, 100), (1000, 1.0, 200)):
        began = time.process_time()
        one = Found(nodes, seed, relays=0.1, churn=0.2, hours=hours, looks=looks)
        one.run()
        trips = sorted(trip for trip in one.trips if trip is not None)
        rows.append(
            (
                f"{nodes:,}",
                str(len(one.trips)),
                f"{len(trips) / len(one.trips):.1%}",
                f"{median(trips):.1f}",
                f"{quantiles(trips, n=10)[-1]:.1f}",
                f"{one.messages:,.0f}",
                f"{time.process_time() - began:.0f}",
            )
        )
    parts = [(trip, (number + 1) / len(trips)) for number, trip in enumerate(trips)]
    return Report(
        "found",
        (
            "nodes",
            "look-ups",
            "found a living relay",
            "round trips, median",
            "p90",
            "messages a node, an hour",
            "CPU-s",
        ),
        rows,
        Plot("Look-ups that have found a relay", "round trips", "part of look-ups", {"1,000 nodes": parts}),
        "A tenth of the nodes relay; a fifth of all is replaced each hour, without a good-bye. Every message takes the "
        "same time, so that time is round trips.",
        bounds=("99 % of look-ups find a living relay, with a median of at most 4 round trips.",),
    )


def new(seed: int) -> Report:
    rows, lines = [], {}
    for nodes in (100, 300):
        waited = sorted(new_relays(seed, nodes, 20))
        rows.append(
            (str(nodes), "20", f"{median(waited):.1f}", f"{quantiles(waited, n=10)[-1]:.1f}", f"{waited[-1]:.1f}")
        )
        lines[f"{nodes} nodes"] = [(when, (number + 1) / len(waited)) for number, when in enumerate(waited)]
    return Report(
        "new",
        ("nodes", "new relays", "seconds until found, median", "p90", "longest"),
        rows,
        Plot("New relays that have been found", "seconds since it says that it relays", "part of new relays", lines),
        "A node joins that nobody knows, and says after half a minute that it relays. From then on another node looks "
        "for relays every second. (A real node first waits until others confirm that it can be reached.)",
    )


def partitioned(seed: int) -> Report:
    sides = partition(seed, 100)
    lines = {
        "on its own side": [(one.minute, one.here) for one in sides],
        "beyond": [(one.minute, one.beyond) for one in sides],
    }
    return Report(
        "partition",
        ("minute", *(f"{one.minute:.0f}" for one in sides)),
        [
            ("found on its own side", *(f"{one.here:.0%}" for one in sides)),
            ("found beyond", *(f"{one.beyond:.0%}" for one in sides)),
        ],
        Plot("A network cut in two for an hour", "minutes", "part of relays found", lines),
        "100 nodes, of which 20 begin to relay when the network has just been cut in two; at minute 60 it is whole.",
        bounds=("a quarter of an hour after it is whole again, all relays are found from everywhere.",),
    )


def spreading(seed: int) -> Report:
    rows, lines = [], {}
    for relays, clients, wanted in ((100, 1000, 0.5), (100, 1000, 0.9), (1000, 9000, 0.5)):
        one = spread(seed, relays=relays, clients=clients, wanted=wanted)
        fill = sorted(one.fill)
        rows.append(
            (
                f"{relays:,} and {clients:,}",
                f"{wanted:.0%}",
                f"{one.jain:.2f}",
                f"{fill[0]:.0%}",
                f"{median(fill):.0%}",
                f"{fill[-1]:.0%}",
                str(one.without),
                str(one.refused),
            )
        )
        lines[f"{relays:,}, {wanted:.0%}"] = [((number + 1) / len(fill), full) for number, full in enumerate(fill)]
    return Report(
        "spread",
        (
            "relays and clients",
            "of all room wanted",
            "Jain's index",
            "least full",
            "median",
            "fullest",
            "clients left without",
            "refused",
        ),
        rows,
        Plot("How full each relay is", "part of the relays, the emptiest first", "part of its room", lines),
        "Clients come within an hour to relays of which some have twice and some four times the room of "
        "others; each keeps two reservations. That a relay is large is its own word and is not believed: so small ones "
        "fill up first, say so, and the rest goes to the large ones.",
        bounds=("no client is left without while there is room.",),
    )


def lying(seed: int) -> Report:
    rows, points = [], []
    for number, liars in enumerate((1, 5, 10)):
        gains = [liar(seed + step, relays=50, clients=500, liars=liars) for step in range(5)]
        rows.append((f"{liars} of 50", f"{fmean(gains):.2f}", f"{max(gains):.2f}"))
        points.append((float(number), fmean(gains)))
    return Report(
        "liar",
        ("liars", "what a liar gets beside an honest relay, mean of 5 seeds", "worst seed"),
        rows,
        Plot(
            "Reservations of a relay that says it is idle",
            "liars among 50 relays",
            "times an honest relay's",
            {"liar": points},
            ("1", "5", "10"),
            bound=2.0,
        ),
        "500 clients come to 50 relays that are half full in the end. Liars always say that they are idle, and take "
        "whoever comes.",
        bounds=("a lie about its load gains a relay at most 2 times an honest one's part.",),
    )


def dropping(seed: int) -> Report:
    kinds = {"drops all": 1.0, "drops half": 0.5, "drops a quarter": 0.25}
    hours = {name: dropper(seed, drops, clients=100) for name, drops in kinds.items()}
    shown = (1, 2, 3, 6, 12)
    return Report(
        "dropper",
        ("circuits lost in hour", *(str(hour) for hour in shown), "blind choice"),
        [(name, *(f"{hours[name][hour - 1][1]:.1%}" for hour in shown), f"{0.2 * kinds[name]:.0%}") for name in kinds],
        Plot(
            "Circuits lost to relays that drop them",
            "hours",
            "part of circuits",
            {name: [(number + 1.0, lost) for number, (_, lost) in enumerate(line)] for name, line in hours.items()},
        ),
        "100 clients that know nobody, and 50 relays, of which 10 are always there, and drop a part of their circuits. "
        "Each client makes a circuit every ten minutes.",
        bounds=("from the third hour on at most 2 % of all circuits are lost to them.",),
    )


def helping(seed: int) -> Report:
    groups = helpers(seed, hours=HOURS)
    rows = []
    for one in groups:
        wished = len(one.peers) * one.wants
        slots = one.held / (HOURS * 3600)
        rows.append(
            (
                one.name,
                str(wished),
                f"{slots:.0f}",
                f"{slots / wished:.0%}",
                f"{slots / SLOTS:.0%}",
                f"{one.refusals:.1%}",
            )
        )
    points = [(float(n), one.held / (HOURS * 3600) / len(one.peers) / one.wants) for n, one in enumerate(groups)]
    return Report(
        "helpers",
        ("who", "circuits wanted", "had", "of its wish", "of the relay", "refused"),
        rows,
        Plot("What each had of what it wanted", "", "part of its wish", {"had": points}, [one.name for one in groups]),
        f"A relay of {SLOTS} circuits. 20 operators want five each, less than is kept for operators; 200 of the public "
        "want five each, five times all there is.",
        bounds=(
            "operators get at least 3 times the public's share of what they want and are refused at least 10 times "
            "less; the public keeps its floor (actors/shares.py).",
        ),
    )


def vouching(seed: int) -> Report:
    rows = []
    lines: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    counts = (5, 20, 100)
    for number, count in enumerate(counts):
        shares: dict[str, Counter[str]] = {kind: sybils(seed, count, kind, hours=HOURS) for kind in KINDS}
        honest = shares[KINDS[0]]["newcomers"]
        rows.append(
            (
                str(count),
                *(f"{shares[kind]['newcomers']:.1%}" for kind in KINDS),
                f"{max(shares[kind]['newcomers'] for kind in KINDS) / honest:.2f}",
                f"{min(shares[kind]['public'] for kind in KINDS):.0%}",
            )
        )
        for kind in KINDS:
            lines[kind].append((float(number), shares[kind]["newcomers"] / honest))
    return Report(
        "sybils",
        ("newcomers", *KINDS, "most, beside honest ones", "the public keeps"),
        rows,
        Plot(
            "Identities that vouch for each other",
            "identities",
            "times the part of honest newcomers",
            lines,
            [str(count) for count in counts],
            bound=2.0,
        ),
        "A full relay with 20 operators that it knows well, 400 of the public, and N newcomers that it has seen to "
        "relay for an hour each: honest ones; identities of one person that all sign receipts for each other; and the "
        "same with an operator that signs for each.",
        bounds=(
            "N identities get at most 2 times what N honest newcomers do of whom the relay has seen as much: others' "
            "word at most doubles what its own probes have shown (actors/vouching.py).",
        ),
    )


def eclipsing(seed: int) -> Report:
    rows, points, labels = [], [], []
    for attackers, networks in ((0, 1), (20, 3), (20, 20), (50, 50), (200, 20), (200, 100)):
        one = Eclipse(seed, 200, attackers, networks).look(60)
        labels.append(f"{attackers} in {networks}" if attackers else "none")
        rows.append(
            (
                str(attackers),
                str(networks) if attackers else "-",
                f"{one.found / one.looks:.0%}",
                f"{one.relays:.0%}",
                f"{one.messages:.0f}",
            )
        )
        points.append((float(len(points)), one.relays))
    return Report(
        "eclipse",
        ("attackers", "networks (/16)", "look-ups that found a relay", "part of the relays", "messages of a look-up"),
        rows,
        Plot(
            "Relays found while others crowd about their key",
            "attackers in networks",
            "part of relays",
            {"found": points},
            labels,
            bound=0.8,
        ),
        "200 nodes, of which 20 relay. Attackers choose ids nearer to the relays' key than any of them, as many as "
        "all honest nodes in the last rows; they know no provider, and tell of each other alone. Of one network three "
        "count in a look-up, so 20 ids in three networks are no eclipse. Those in more displace the nearest twenty; "
        "relays are then stored and found with those who would be nearest without them (actors/kad_region.py). "
        "Before that was built, 7 % of the relays were found in the third row and the following ones.",
        bounds=(
            "every look-up finds a relay, and on average at least 80 % of them. Clients that know relays from their "
            "last run, by mDNS or by their settings keep them in any case.",
        ),
    )


EXPERIMENTS: dict[str, Callable[[int], Report]] = {
    "found": found,
    "new": new,
    "partition": partitioned,
    "spread": spreading,
    "liar": lying,
    "dropper": dropping,
    "helpers": helping,
    "sybils": vouching,
    "eclipse": eclipsing,
}


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="+", choices=[*EXPERIMENTS, "all"], metavar="NAME", help=", ".join(EXPERIMENTS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="into tests/simulation/README.md too")
    arguments = parser.parse_args(given)
    names = list(EXPERIMENTS) if "all" in arguments.names else arguments.names
    for name in names:
        began = time.process_time()
        report = EXPERIMENTS[name](arguments.seed)
        report = replace(report, cpu=time.process_time() - began, said=f"{report.said} Seed {arguments.seed}.")
        print(f"{report.markdown()}\n", flush=True)
        if arguments.write:
            report.write()


if __name__ == "__main__":
    main()
