"""Commands of `descord-relay` to a node that runs on this machine (actors/ports/control.py)."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any, Final

from actors import contribution, relay_table
from actors.node_mode import NAMES, mode_words
from actors.ports.control import CommandFailed, NoNode, ask
from actors.relay_directory import MAX_TIME, MAX_WANTED
from actors.relay_mode import MODES
from actors.reports import line
from actors.settings import Settings
from actors.settings_table import ROWS

COMMANDS: Final = ("contribution", "mode", "relays", "restart-forwarders", "status")


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
        help="the best relays that can be found",
        description="Have the node that runs here look for relays in all its sources, try them, and list the best. "
        "Where none runs, look without one, as one that relays for nobody would.",
    )
    relays.add_argument("--count", type=int, default=5, metavar="N", help="how many (default: 5)")
    relays.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="time to look for them (default: 10)"
    )
    relays.add_argument("--known", action="store_true", help="only what it knows already, untried")
    shown = commands.add_parser(
        "contribution",
        help="what a running node did for others this month",
        description="What a running node relayed for others this month (in UTC), how many circuits it helped, and how "
        "it is rated. With --json the months before, too.",
    )
    mode = commands.add_parser(
        "mode",
        help="show or change when and how much a running node relays",
        description="Without more, show it. What is given is changed at once, without a restart, and kept in the "
        "node's settings file; circuits that run go on.",
    )
    mode.add_argument("mode", nargs="?", choices=MODES, help=ROWS["mode"].reason)
    for name in NAMES:
        if name != "mode":
            row = ROWS[name]
            metavar = "|".join(row.choices) or ("on|off" if row.kind == "bool" else "N")
            unit = f" {row.unit}." if row.unit else ""
            mode.add_argument("--" + name.replace("_", "-"), metavar=metavar, help=row.reason + unit)
    for command in (restart, status, relays, shown, mode):
        command.add_argument("--data-dir", metavar="DIR", help="the node's data folder (default: as the node's)")
        command.add_argument("--json", action="store_true", help="as a JSON object")


def run(arguments: argparse.Namespace, settings: Settings) -> int:
    """Ask, and print the answer; the exit code.  NoNode, CommandFailed."""
    folder = Path(arguments.data_dir).expanduser() if arguments.data_dir else settings.data_dir
    question: dict[str, Any] = {"command": arguments.command}
    if arguments.command == "relays":
        question |= {"count": arguments.count, "timeout": arguments.timeout, "known": arguments.known}
    if arguments.command == "mode":
        question["set"] = {name: value for name in NAMES if (value := getattr(arguments, name)) is not None}
    try:
        answer = ask(folder, question)
    except NoNode:
        if arguments.command != "relays":
            raise
        answer = _look(arguments, folder)
    answer = {**answer, "event": arguments.command}
    if arguments.json:
        print(json.dumps(answer))
    elif arguments.command == "relays":
        print(relay_table.to_text(answer))
    elif arguments.command == "contribution":
        print(contribution.to_text(answer))
    elif arguments.command == "status":
        addresses = answer.pop("addresses")
        print("\n".join([line(answer), *addresses]))
    elif arguments.command == "mode":
        print(_mode(answer, question["set"]))
    else:
        print(_restarted(answer))
    return 0


def _look(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """For relays, without a node.  CommandFailed."""
    # Only now: most commands need none of it.
    from actors.lookout import folder_to_look_in, look, settings_to_look
    from actors.ports.addresses import BindError
    from actors.serving import run_loop

    if not 1 <= arguments.count <= MAX_WANTED or not 0 <= arguments.timeout <= MAX_TIME:
        raise CommandFailed(f"--count is from 1 to {MAX_WANTED}, --timeout from 0 to {MAX_TIME:g} seconds")
    found: dict[str, Any] = {}

    async def looking() -> int:
        found.update(await look(settings, arguments.count, arguments.timeout, search=not arguments.known))
        return 0

    try:
        with folder_to_look_in(folder) as place:
            settings = settings_to_look(os.environ, place)
            run_loop(looking())
    except (BindError, OSError) as error:
        raise CommandFailed(f"no node runs here, and to look for relays without one failed: {error}") from error
    return found


def _mode(answer: dict[str, Any], wanted: dict[str, Any]) -> str:
    settings, origin = answer["settings"], answer["origin"]
    width = max(map(len, settings))
    lines = []
    for name, value in settings.items():
        text = ("on" if value else "off") if isinstance(value, bool) else value
        unit = ROWS[name].unit
        lines.append(f"{name:<{width}}  {text}{' ' + unit if unit else ''}  ({origin[name]})")
    for name, stronger in answer["overruled"].items():
        lines.append(
            f"{name} = {wanted[name]} is in {answer['file']}, but the node was given another by {stronger}, which wins."
        )
    if words := mode_words(answer):
        lines.append(words)
    return "\n".join(lines)


def _restarted(answer: dict[str, Any]) -> str:
    if answer.get("again"):
        return f"A new process, {answer['pid']}, is taking over, and is replaced in its turn."
    p50, p99, worst = answer["pause_ms"]
    what = f"{answer['forwarders']} forwarders began anew" if "forwarders" in answer else "A new process took over"
    return (
        f"{what}, with {answer['connections']} connections and {answer['circuits']} circuits, which paused for "
        f"{p50} ms (p50), {p99} ms (p99), {worst} ms (worst)."
    )
