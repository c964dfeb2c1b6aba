"""Settings: file, environment and flags, the later one wins; what is wrong is refused with name, value and allowed."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.settings import Settings, SettingsError, load_settings, print_settings
from actors.settings_table import ROWS, TABLE, Row

PEER = "12D3KooWCryG7Mon9orvQxcS1rYZjotPgpwoJNHHKcLLfE4Hf5mV"


def home(tmp_path: Path, toml: str = "", **variables: str) -> dict[str, str]:
    """An environment with nothing of the person's who runs the tests."""
    (tmp_path / "descord-relay").mkdir(exist_ok=True)
    (tmp_path / "descord-relay" / "config.toml").write_text(toml)
    given = {f"DESCORD_RELAY_{name.upper()}": value for name, value in variables.items()}
    return {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path), **given}


def test_without_any_source_all_are_defaults(tmp_path: Path) -> None:
    settings = load_settings([], {"HOME": str(tmp_path)})
    assert settings.listen == ("/ip4/0.0.0.0/tcp/4001", "/ip6/::/tcp/4001")
    assert settings.data_dir == tmp_path / ".local/state/descord-relay"
    assert settings.circuit_data == 0
    assert settings.rate_limits is True
    assert set(settings.origin.values()) == {"default"}


def test_each_row_is_an_attribute_and_each_attribute_a_row() -> None:
    assert {field.name for field in fields(Settings)} - {"origin", "print_settings", "config"} == set(ROWS)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_each_default_is_allowed_and_each_row_has_a_reason(row: Row, tmp_path: Path) -> None:
    assert row.reason
    if row.kind in ("int", "float"):
        assert row.least <= row.default <= row.most
        settings = load_settings([], home(tmp_path, f"{row.name} = {row.default}"))
        assert getattr(settings, row.name) == row.default


def test_the_later_source_wins(tmp_path: Path) -> None:
    toml = "max_circuits = 1\nmax_reservations = 2\nmax_connections = 3\n"
    environ = home(tmp_path, toml, max_circuits="10", max_reservations="20")
    settings = load_settings(["--max-circuits", "100"], environ)
    assert (settings.max_circuits, settings.max_reservations, settings.max_connections) == (100, 20, 3)
    assert settings.origin["max_circuits"] == "flag"
    assert settings.origin["max_reservations"] == "environment"
    assert settings.origin["max_connections"].startswith("file ")
    assert settings.origin["idle_timeout"] == "default"


def test_lists_come_from_every_source(tmp_path: Path) -> None:
    one, two = "/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"
    assert load_settings(["--listen", one, "--listen", two], home(tmp_path)).listen == (one, two)
    assert load_settings([], home(tmp_path, f'listen = ["{one}", "{two}"]')).listen == (one, two)
    assert load_settings([], home(tmp_path, f'listen = "{one}"')).listen == (one,)
    assert load_settings([], home(tmp_path, listen=f"{one},{two}")).listen == (one, two)


@pytest.mark.parametrize(
    "text",
    [
        "/dns4/relay.example.org/tcp/4001",
        "/dns6/relay.example.org/tcp/4001",
        "/dns/relay.example.org/tcp/443",
        "/dnsaddr/relay.example.org",
        "/ip4/192.0.2.1/tcp/4001",
        "/ip6/2001:db8::1/tcp/4001",
    ],
)
def test_names_and_addresses_may_be_announced(text: str, tmp_path: Path) -> None:
    assert load_settings(["--announce", text], home(tmp_path)).announce == (text,)


@pytest.mark.parametrize(("text", "value"), [("on", True), ("OFF", False), ("1", True), ("no", False)])
def test_switches_are_on_or_off(text: str, value: bool, tmp_path: Path) -> None:
    assert load_settings(["--rate-limits", text], home(tmp_path)).rate_limits is value
    assert load_settings([], home(tmp_path, rate_limits=text)).rate_limits is value


def test_a_flag_alone_switches_on(tmp_path: Path) -> None:
    assert load_settings(["--json"], home(tmp_path)).json is True


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        (["--max-circuits", "none"], ["max_circuits", "'none'", "a whole number from 1 to 1000000"]),
        (["--max-circuits", "0"], ["max_circuits", "'0'", "a whole number"]),
        (["--max-circuits", "1.5"], ["max_circuits", "'1.5'"]),
        (["--circuit-data", "-1"], ["circuit_data", "'-1'", "a whole number from 0 to"]),
        (["--max-backlog", "1"], ["max_backlog", "'1'", "a whole number of at least 1048576"]),
        (["--circuit-duration", "-0.1"], ["circuit_duration"]),
        (["--circuit-duration", "nan"], ["circuit_duration", "'nan'"]),
        (["--circuit-duration", "inf"], ["circuit_duration", "'inf'"]),
        (["--circuit-data", str(2**64)], ["circuit_data", "from 0 to 9223372036854775807"]),
        (["--ping-rate-per-connection", "inf"], ["ping_rate_per_connection", "'inf'"]),
        (["--shutdown-grace", "3"], ["shutdown_grace", "'3'", "a number from 0 to 1.9"]),  # all has ended by then
        (["--rate-limits", "maybe"], ["rate_limits", "'maybe'", "on or off"]),
        (["--log-level", "loud"], ["log_level", "'loud'", "one of debug, info, warning, error"]),
        (["--listen", "0.0.0.0:4001"], ["listen", "0.0.0.0:4001 is no multiaddr"]),
        (["--listen", "/ip4/0.0.0.0/udp/4001"], ["listen", "not of the form"]),
        (["--listen", "/dns4/relay.example.org/tcp/1"], ["listen", "not of the form"]),
        (["--announce", "/tcp/4001"], ["announce", "/tcp/4001 is not of the form"]),
        (["--announce", "/ip4/192.0.2.1"], ["announce", "/ip4/192.0.2.1 is not of the form"]),
        (["--announce", "/ip4/192.0.2.1/udp/4001/quic-v1"], ["announce", "quic-v1 is not of the form"]),
        (["--announce", "/dnsaddr/relay.example.org/tcp/1"], ["announce", "is not of the form"]),
        (["--announce", f"/ip4/192.0.2.1/tcp/4001/p2p/{PEER}"], ["announce", "no /p2p"]),
        (["--announce", "/ip4/0.0.0.0/tcp/4001"], ["announce", "nobody can dial 0.0.0.0"]),
        (["--announce", "/ip6/::/tcp/4001"], ["announce", "nobody can dial ::"]),
        (["--announce", "/ip4/192.0.2.1/tcp/0"], ["announce", "nobody can dial port 0"]),
        (["--config", "/no/such/file.toml"], ["/no/such/file.toml", "no such file"]),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_is_allowed(
    argv: list[str], parts: list[str], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings(argv, home(tmp_path))
    for part in parts:
        assert part in str(refused.value)


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        ("max_circuit = 5", "did you mean max_circuits?"),
        ("zzzzzz = 5", "there is no setting zzzzzz"),
        ("max_circuits = true", "max_circuits = True"),
        ("max_circuits = [1]", "max_circuits = [1]"),
        ("max_circuits = 1.5", "max_circuits = 1.5"),
        ("rate_limits = 1", "rate_limits = 1"),
        ("log_level = 3", "log_level = 3"),
        ("listen = 3", "listen = 3"),
        ("listen = [3]", "listen = [3]"),
        ("listen = []", "listen is empty"),
        ("max_circuits = ", "not TOML"),
        ("max_circuits = " + "9" * 5000, "not TOML"),
        ("idle_timeout = " + "9" * 400, "idle_timeout = 999"),
        ("[max_circuits]\na = 1", "max_circuits = {'a': 1}"),
    ],
)
def test_a_wrong_file_is_refused(toml: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings([], home(tmp_path, toml))
    assert part in str(refused.value)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    environ = home(tmp_path)
    (tmp_path / "descord-relay" / "config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match=r"config\.toml"):
        load_settings([], environ)


def test_lists_of_the_environment_are_separated_by_commas_and_may_be_empty(tmp_path: Path) -> None:
    one, two = "/ip4/127.0.0.1/tcp/0", "/ip6/::1/tcp/0"
    assert load_settings([], home(tmp_path, listen=f" {one} , {two} ")).listen == (one, two)
    announced = 'announce = "/ip4/192.0.2.1/tcp/1"'
    assert load_settings([], home(tmp_path, announced, announce="")).announce == ()
    with pytest.raises(SettingsError, match="listen is empty"):
        load_settings([], home(tmp_path, listen=""))
    with pytest.raises(SettingsError, match="is not of the form"):
        load_settings([], home(tmp_path, listen=f"{one},"))


@pytest.mark.parametrize("name", ["max_circuits", "circuit_duration", "rate_limits", "log_level", "metrics_listen"])
def test_an_empty_variable_is_refused_where_nothing_is_no_value(name: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=f"{name} = ''"):
        load_settings([], home(tmp_path, **{name: ""}))


def test_an_empty_variable_is_the_empty_text(tmp_path: Path) -> None:
    environ = home(tmp_path, 'data_dir = "/somewhere"', data_dir="")
    assert load_settings([], environ).data_dir == load_settings([], home(tmp_path)).data_dir


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "other.toml"
    file.write_text("max_circuits = 7")
    environ = home(tmp_path, "max_circuits = 8", config=str(file))
    assert load_settings([], environ).max_circuits == 7
    assert load_settings([], environ).origin["max_circuits"] == f"file {file}"
    assert load_settings(["--config", str(tmp_path / "descord-relay" / "config.toml")], environ).max_circuits == 8
    with pytest.raises(SettingsError, match="there is no such file"):
        load_settings([], home(tmp_path, config=str(tmp_path / "missing.toml")))


def test_an_unknown_flag_is_refused_with_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flags, told in (
        (["--max-circuit", "5"], "did you mean --max-circuits?"),
        (["--log-levl=info"], "--log-level?"),
    ):
        with pytest.raises(SystemExit) as ended:
            load_settings(flags, home(tmp_path))
        assert ended.value.code == 2 and told in capsys.readouterr().err
    with pytest.raises(SystemExit):
        load_settings(["extra"], home(tmp_path))
    error = capsys.readouterr().err
    assert "extra" in error and "did you mean" not in error


def test_an_unknown_variable_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"DESCORD_RELAY_MAX_CIRCUIT.*did you mean max_circuits"):
        load_settings([], home(tmp_path, max_circuit="5"))


def test_a_flag_is_written_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An abbreviation would change its meaning when a setting is added."""
    with pytest.raises(SystemExit) as ended:
        load_settings(["--max-circuits-per", "5"], home(tmp_path))
    assert ended.value.code == 2
    assert "--max-circuits-per" in capsys.readouterr().err


def test_print_settings_shows_value_unit_and_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_settings(load_settings(["--idle-timeout", "5", "--rate-limits", "off"], home(tmp_path)))
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in capsys.readouterr().out.splitlines()}
    assert list(lines) == [row.name for row in TABLE]
    assert lines["idle_timeout"] == "5.0 s (flag)"
    assert lines["rate_limits"] == "off (flag)"
    assert lines["announce"] == "none (default)"


def test_help_names_every_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load_settings(["--help"], home(tmp_path))
    assert ended.value.code == 0
    text = capsys.readouterr().out
    for row in TABLE:
        assert "--" + row.name.replace("_", "-") in text


def test_help_says_what_a_value_may_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_settings(["--help"], home(tmp_path), prog="descord-relay run")
    shown = " ".join(capsys.readouterr().out.split())
    for part in (
        "usage: descord-relay run",
        "--log-level debug|info|warning|error",
        "--runtime local|ray",
        "--listen MULTIADDR",
        "Default: /ip4/0.0.0.0/tcp/4001, /ip6/::/tcp/4001.",
        "--connection-rate-per-ip N ",
        "Default: 240 a minute.",
        "--idle-timeout SECONDS",
        "--circuit-data BYTES",
        "--data-dir FOLDER",
        "--max-circuits N ",
        "--rate-limits [on|off]",
    ):
        assert part in shown, part


def test_settings_do_not_change(tmp_path: Path) -> None:
    settings: Any = load_settings([], home(tmp_path))
    with pytest.raises(AttributeError):
        settings.max_circuits = 1


@given(name=st.sampled_from(sorted(ROWS)), value=st.text(st.characters(exclude_characters="\0"), max_size=30))
def test_any_text_is_taken_or_refused_by_name(name: str, value: str) -> None:
    environ = {"HOME": "/nonexistent", f"DESCORD_RELAY_{name.upper()}": value}
    try:
        load_settings([], environ)
    except SettingsError as error:
        assert name in str(error)


@pytest.mark.parametrize("flags", [("--forwarders", "2"), ("--ray-address", "10.0.0.1:6379"), ("--runtime", "ray")])
def test_what_only_ray_does_implies_it(flags: tuple[str, str], tmp_path: Path) -> None:
    assert load_settings(flags, home(tmp_path)).runtime == "ray"
    assert load_settings([*flags, "--forwarders", "4", "--ray-address", "10.0.0.1:1"], home(tmp_path)).runtime == "ray"


@pytest.mark.parametrize("flags", [("--forwarders", "2"), ("--ray-address", "10.0.0.1:6379")])
def test_the_local_runtime_is_not_exchanged_for_another_behind_ones_back(
    flags: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=r"--runtime ray") as caught:
        load_settings(flags, home(tmp_path, 'runtime = "local"'))
    assert flags[1] in str(caught.value)
    assert load_settings(["--forwarders", "1"], home(tmp_path, 'runtime = "local"')).runtime == "local"


def test_a_dedicated_relay_has_metrics_unless_told_otherwise(tmp_path: Path) -> None:
    environ = home(tmp_path)
    assert load_settings([], environ).metrics_port == 0
    dedicated = load_settings(["--mode", "dedicated"], environ)
    assert (dedicated.metrics_port, dedicated.origin["metrics_port"]) == (9090, "mode = dedicated")
    assert load_settings(["--mode", "dedicated", "--metrics-port", "0"], environ).metrics_port == 0
