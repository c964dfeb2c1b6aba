"""Commands of `descord-relay` to a node that runs on this machine (actors/ports/control.py)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

from actors.node import line
from actors.ports.control import ask
from actors.relay_table import to_text
from actors.settings import Settings

COMMANDS: Final = ("relays", "restart-forwarders", "status")


def add_parsers(commands: Any) -> None:
    """Their flags."""
    restart = commands.add_parser(
        "restart-forwarders",
        help="have a running node read its settings and its code anew, without ending a circuit",
        description="Replace the forwarders of a running node one by one, with the settings and the code as they are "
        "on disk now. Connections, circuits and reservations go on. SIGHUP does the same. A node of one process is "
        "replaced whole, and keeps its process number.",
    )
    status = commands.add_parser("status", help="what a running node does", description="What a running node does.")
    relays = commands.add_parser(
        "relays",
        help="the best relays that a running node finds",
        description="Have a running node look for relays in all its sources, try them, and list the best.",
    )
    relays.add_argument("--count", type=int, default=5, metavar="N", help="how many (default: 5)")
    relays.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="time to look for them (default: 10)"
    )
    relays.add_argument("--known", action="store_true", help="only what it knows already, untried")
    for command in (restart, status, relays):
        command.add_argument("--data-dir", metavar="DIR", help="the node's data folder (default: as the node's)")
        command.add_argument("--json", action="store_true", help="as a JSON object")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Ask, and print the answer; the exit code.  NoNode, CommandFailed."""
    folder = Path(arguments.data_dir).expanduser() if arguments.data_dir else settings.data_dir
    question: dict[str, Any] = {"command": arguments.command}
    if arguments.command == "relays":
        question |= {"count": arguments.count, "timeout": arguments.timeout, "known": arguments.known}
    answer = {**ask(folder, question), "event": arguments.command}
    if arguments.json:
        print(json.dumps(answer))
    elif arguments.command == "relays":
        print(to_text(answer))
    elif arguments.command == "status":
        addresses = answer.pop("addresses")
        print("\n".join([line(answer), *addresses]))
    else:
        print(_restarted(answer))
    return 0


def _restarted(answer: dict[str, Any]) -> str:
    if answer.get("again"):
        return f"A new process, {answer['pid']}, is taking over, and is replaced in its turn."
    p50, p99, worst = answer["pause_ms"]
    what = f"{answer['forwarders']} forwarders began anew" if "forwarders" in answer else "A new process took over"
    return (
        f"{what}, with {answer['connections']} connections and {answer['circuits']} circuits, which paused for "
        f"{p50} ms (p50), {p99} ms (p99), {worst} ms (worst)."
    )
