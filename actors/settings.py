"""The settings of a node, from file, environment and flags, in that order: the later one wins.

    $XDG_CONFIG_HOME/descord-relay/config.toml    circuit_data = 1048576
    DESCORD_RELAY_CIRCUIT_DATA=1048576
    --circuit-data 1048576

What is wrong is refused at start, with the setting's name, the value, and what is allowed.  The settings themselves are
in actors/settings_table.py.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from actors.relay_mode import ALWAYS, COOPERATIVE, DEDICATED
from actors.settings_table import LISTS, ROWS, TABLE, UNBOUNDED, Row

# It is the node that says so.
log = logging.getLogger("actors.node")

NAME: Final = "descord-relay"
PREFIX: Final = "DESCORD_RELAY_"

#: The settings file, in the environment.
CONFIG: Final = PREFIX + "CONFIG"

PROGRAM: Final = "python -m actors.node"

#: The port of the metrics of a dedicated relay that names none, and as what origin has it: one that somebody else has
#: is then no error.
METRICS_PORT: Final = 9090
BY_MODE: Final = f"mode = {DEDICATED}"

_TRUE: Final = frozenset({"on", "true", "yes", "1"})
_FALSE: Final = frozenset({"off", "false", "no", "0"})


class SettingsError(Exception):
    """A setting is wrong: the message says which, its value, and what is allowed."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One attribute for each row of the table; ``origin``: where each value came from; ``config``: the settings
    file, whether there is one or not."""

    listen: tuple[str, ...]
    announce: tuple[str, ...]
    address_interval: float
    data_dir: Path
    log_level: str
    json: bool
    status_interval: float
    metrics_port: int
    metrics_listen: str
    trace_sampling: float
    trace_identities: bool
    trace_key_rotation: float
    shutdown_grace: float
    discovery: bool
    public_relays: tuple[str, ...]
    mdns: bool
    dht_protocol: str
    private_network: bool
    assume_reachable: bool
    port_mapping: bool
    mode: str
    max_bandwidth: int
    run_when: str
    uptime_target: float
    public: bool
    incentive: str
    receipts: str
    circuit_data: int
    circuit_duration: float
    move_diallers: bool
    circuit_window: int
    reservation_duration: float
    max_reservations: int
    max_reservations_per_ip: int
    max_reservations_per_group: int
    max_circuits: int
    max_circuits_per_peer: int
    max_circuits_per_ip: int
    max_circuits_per_pair: int
    trusted_peers: tuple[str, ...]
    max_connections: int
    max_connections_per_ip: int
    max_inbound_streams: int
    max_unacked_streams: int
    max_frame: int
    max_backlog: int
    max_backlog_total: int
    write_timeout: float
    max_open_files_reserve: int
    handshake_timeout: float
    idle_timeout: float
    stream_timeout: float
    stop_timeout: float
    resolver_timeout: float
    keepalive_interval: float
    keepalive_timeout: float
    relays_kept: int
    path_timeout: float
    next_path_after: float
    asn_database: str
    tor_socks: str
    tor_control: str
    handover_timeout: float
    rate_limits: bool
    connection_rate_per_ip: float
    reserve_rate_per_peer: float
    reserve_rate_per_ip: float
    connect_rate_per_peer: float
    connect_rate_per_ip: float
    ping_rate_per_connection: float
    stream_rate_per_connection: float
    frame_rate_per_ip: float
    serve_perf: bool
    runtime: str
    forwarders: int
    ray_address: str
    heartbeat_interval: float
    heartbeat_timeout: float
    mailbox_capacity: int
    max_restarts: int
    restart_window: float
    origin: Mapping[str, str]
    print_settings: bool
    config: Path


def load_settings(
    argv: Sequence[str], environ: Mapping[str, str], *, prog: str = PROGRAM, only: Collection[str] = ROWS
) -> Settings:
    """The settings; SettingsError when one is wrong.  ``--help`` and unknown flags end the program (argparse), which
    was called as ``prog``.  ``only``: the settings that it uses; the others have their defaults, whatever is given."""
    parser = _parser(prog)
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{_nearest_flag(unknown)}")
    named = arguments.config or environ.get(CONFIG, "")
    config = Path(named) if named else _folder(environ, "XDG_CONFIG_HOME", ".config") / "config.toml"
    values: dict[str, Any] = {row.name: row.default for row in TABLE}
    origin = {row.name: "default" for row in TABLE}
    sources = (
        (f"file {config}", _from_file(config, required=bool(named), strict=only is ROWS)),
        ("environment", _from_environment(environ, strict=only is ROWS)),
        ("flag", {row.name: given for row in TABLE if (given := getattr(arguments, row.name)) is not None}),
    )
    for source, given in sources:
        for name, value in given.items():
            if name not in only:
                continue
            values[name] = _convert(ROWS[name], value, source)
            origin[name] = source
    data_dir = Path(values["data_dir"]) if values["data_dir"] else _folder(environ, "XDG_STATE_HOME", ".local/state")
    values["data_dir"] = data_dir.expanduser()
    for name in ("listen", "announce", "public_relays", "trusted_peers"):
        values[name] = tuple(values[name])
    if not values["listen"]:
        raise SettingsError("listen is empty: a relay listens on at least one address")
    if origin["metrics_port"] == "default" and values["mode"] == DEDICATED:
        values["metrics_port"], origin["metrics_port"] = METRICS_PORT, BY_MODE
    _choose_runtime(values, origin)
    return Settings(**values, origin=origin, print_settings=arguments.print_settings, config=config)


def _choose_runtime(values: dict[str, Any], origin: dict[str, str]) -> None:
    """What only Ray does implies it, unless the local runtime was asked for by name."""
    if values["runtime"] == "ray":
        return
    by_name = origin["runtime"] != "default"
    for name, needs in (("forwarders", values["forwarders"] > 1), ("ray_address", bool(values["ray_address"]))):
        if needs and by_name:
            raise SettingsError(
                f"{name} = {values[name]!r} ({origin[name]}): the local runtime is one process; use --runtime ray"
            )
        if needs:
            values["runtime"], origin["runtime"] = "ray", f"{name}, {origin[name]}"


def convert(name: str, value: Any, source: str) -> Any:
    """The value of one setting, as a file or a flag gives it; SettingsError.  ``source``: who gives it."""
    return _convert(ROWS[name], value, source)


def warn_of_contradictions(settings: Settings) -> None:
    """Say which limit cannot be reached, because another is lower, and what is without effect."""
    if settings.mode != COOPERATIVE and settings.run_when != ALWAYS:
        log.warning("run_when = %s is without effect: mode = %s", settings.run_when, settings.mode)
    if settings.max_connections < settings.max_reservations:
        log.warning(
            "max_reservations = %d cannot be reached with max_connections = %d: each needs one",
            settings.max_reservations,
            settings.max_connections,
        )


def print_settings(settings: Settings) -> None:
    """Each setting with its value, unit and origin, a line each."""
    shown = [field.name for field in fields(settings) if field.name in ROWS]
    width = max(map(len, shown))
    for name in shown:
        value = getattr(settings, name)
        text = ("on" if value else "off") if isinstance(value, bool) else value
        if isinstance(value, tuple):
            text = ", ".join(value) or "none"
        unit = ROWS[name].unit
        print(f"{name:<{width}}  {text}{' ' + unit if unit else ''}  ({settings.origin[name]})")


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="A libp2p circuit relay: peers that cannot connect directly meet here, and it sees sealed bytes.",
        allow_abbrev=False,  # an abbreviation would change its meaning when a setting is added
        epilog=f"Each flag is also a key of the settings file and an environment variable, {PREFIX}NAME; "
        "there addresses are separated by commas.",
    )
    parser.add_argument(
        "--config",
        metavar="FILE",
        help=f"settings file (default: ${CONFIG}, or {NAME}/config.toml in the config folder)",
    )
    parser.add_argument(
        "--print-settings", action="store_true", help="show each setting with value, unit and origin, and end"
    )
    for row in TABLE:
        flag = "--" + row.name.replace("_", "-")
        text = row.reason.replace("%", "%%")
        shown = "on" if row.default is True else "off" if row.default is False else row.default
        if isinstance(shown, list):
            shown = ", ".join(shown)
        elif isinstance(shown, float):
            shown = f"{shown:g}"
        if shown != "":
            text += f" Default: {shown}{' ' + row.unit if row.unit else ''}."
        if row.kind == "bool":
            parser.add_argument(flag, nargs="?", const="on", metavar="on|off", help=text)
        elif row.kind in LISTS:
            metavar = "MULTIADDR" if row.kind == "addresses" else "PEER_ID"
            parser.add_argument(flag, action="append", metavar=metavar, help=text + " Repeatable.")
        else:
            parser.add_argument(flag, metavar=_metavar(row), help=text)
    return parser


def _metavar(row: Row) -> str:
    if row.choices:
        return "|".join(row.choices)
    if row.kind in ("int", "float"):
        return {"bytes": "BYTES", "s": "SECONDS"}.get(row.unit.partition(" ")[0], "N")
    return "FOLDER" if row.kind == "path" else "TEXT"


def _folder(environ: Mapping[str, str], variable: str, fallback: str) -> Path:
    root = environ.get(variable)
    return (Path(root) if root else Path(environ.get("HOME", "~")).expanduser() / fallback) / NAME


def _from_file(path: Path, *, required: bool, strict: bool) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        if required:
            raise SettingsError(f"config = {path}: there is no such file") from None
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"config = {path}: {error}") from error
    try:
        given = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError is one; a number of too many digits is a bare one
        raise SettingsError(f"config = {path}: not TOML: {error}") from error
    for name in given:
        if strict and name not in ROWS:
            raise SettingsError(f"{path}: there is no setting {name}{_nearest(name)}")
    return given


def _from_environment(environ: Mapping[str, str], *, strict: bool) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for variable, value in environ.items():
        if not variable.startswith(PREFIX) or variable == CONFIG:
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in ROWS:
            if strict:
                raise SettingsError(f"{variable}: there is no setting {name}{_nearest(name)}")
            continue
        if ROWS[name].kind in LISTS:
            given[name] = [text.strip() for text in value.split(",")] if value.strip() else []
        else:
            given[name] = value
    return given


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, ROWS, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _nearest_flag(unknown: Sequence[str]) -> str:
    name = next((text[2:].partition("=")[0] for text in unknown if text.startswith("--")), "")
    near = difflib.get_close_matches(name.replace("-", "_"), ROWS, n=1)
    return f"; did you mean --{near[0].replace('_', '-')}?" if near else ""


def _convert(row: Row, value: Any, source: str) -> Any:
    def wrong(detail: str = "") -> SettingsError:
        return SettingsError(f"{row.name} = {value!r} ({source}): {detail or 'allowed is ' + row.allowed}")

    converted = value
    if row.kind == "bool":
        if isinstance(value, str) and value.lower() in _TRUE | _FALSE:
            converted = value.lower() in _TRUE
        elif not isinstance(value, bool):
            raise wrong()
    elif row.kind in ("int", "float"):
        try:
            if isinstance(value, bool):
                raise wrong()
            converted = int(str(value).replace("_", "")) if row.kind == "int" else float(value)
        except (TypeError, ValueError, OverflowError):
            raise wrong() from None
        if not row.least <= converted <= row.most or converted == UNBOUNDED:
            raise wrong()
    elif row.kind in LISTS:
        if isinstance(value, str):
            converted = [value]
        if not isinstance(converted, list) or not all(isinstance(text, str) for text in converted):
            raise wrong()
    elif not isinstance(value, str):
        raise wrong()
    if row.choices and converted not in row.choices:
        raise wrong()
    if row.check is not None and (detail := row.check(converted)) is not None:
        raise wrong(detail)
    return converted
