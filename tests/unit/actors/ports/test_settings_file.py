"""The settings file is its owner's: what is changed in it is what was asked for, and nothing else."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.ports.settings_file import SettingsFileError, change

OWN = """\
# Our relay at home.
listen = [
  "/ip4/0.0.0.0/tcp/4001",  # mode = "dedicated"
]

max_bandwidth = 500   # what the line can spare
mode = 'cooperative'

# Last.
log_level = "debug"
"""


def test_comments_and_order_stay(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(OWN)
    change(path, {"max_bandwidth": 900, "run_when": "idle"})
    assert path.read_text() == OWN.replace("500 ", "900 ") + 'run_when = "idle"\n'


def test_a_file_that_is_not_there_is_made(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "config.toml"
    change(path, {"mode": "dedicated", "public": False, "uptime_target": 0.5})
    assert tomllib.loads(path.read_text()) == {"mode": "dedicated", "public": False, "uptime_target": 0.5}
    assert [entry.name for entry in path.parent.iterdir()] == ["config.toml"]


def test_who_may_read_it_and_links_stay(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "config.toml"
    real.write_text(OWN)
    real.chmod(0o640)
    link.symlink_to(real)
    change(link, {"mode": "client-only"})
    assert link.is_symlink() and "client-only" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640


def test_what_cannot_be_read_or_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.toml"
    path.write_text("mode = \n")
    with pytest.raises(SettingsFileError, match="not TOML"):
        change(path, {"mode": "dedicated"})
    assert path.read_text() == "mode = \n"
    path.write_text(OWN)

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(SettingsFileError, match="cannot be written: No space left"):
        change(path, {"mode": "dedicated"})
    assert path.read_text() == OWN and [entry.name for entry in tmp_path.iterdir()] == ["config.toml"]


KEYS = st.sampled_from(["mode", "run_when", "max_bandwidth", "uptime_target", "public"])
VALUES = st.one_of(st.integers(0, 10**9), st.booleans(), st.floats(0, 1), st.text(max_size=20))
#: As a person may lay them out.
LINES = st.sampled_from(
    [
        *("", "# a comment", "listen = [", '  "a", # mode = 1', "]", "  mode   =  'x' # y", 'run_when = """', 'x"""'),
        *("max_bandwidth = 1_000", "public=true", '"uptime_target" = 0.5', "log_level = 'info'\t"),
    ]
)


@settings(suppress_health_check=[HealthCheck.too_slow])  # the first text takes seconds on a busy host
@given(lines=st.lists(LINES, max_size=10), values=st.dictionaries(KEYS, VALUES, max_size=4))
def test_only_what_was_asked_for_changes(lines: list[str], values: dict[str, object], tmp_path_factory: object) -> None:
    text = "\n".join(lines) + "\n"
    path = tmp_path_factory.mktemp("settings") / "config.toml"  # type: ignore[attr-defined]
    path.write_text(text)
    try:
        before = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(SettingsFileError):
            change(path, values)
        assert path.read_text() == text
        return
    change(path, values)
    assert tomllib.loads(path.read_text()) == before | values
    if '"""' in text:  # what looks like a comment may be within a text, and go with it
        return
    assert [line for line in lines if line.startswith("#")] == [
        line for line in path.read_text().splitlines() if line.startswith("#")
    ]
