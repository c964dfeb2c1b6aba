"""A node's mode: kept in its file, and told to RelayServer when it is another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors import node_mode
from actors.node_mode import NAMES, ModeKeeper, change_mode, mode_words
from actors.ports.machine_state import MachineWatch
from actors.relay_mode import MachineState
from actors.settings import Settings, SettingsError, load_settings
from protocol.identity import Identity
from protocol.quota_messages import ModeTold, TermsSet
from tests.support.peers import seeded
from tests.unit.actors.test_node_base import IdleNode


class Told(IdleNode):
    """A node that keeps what RelayServer would be told."""

    def __init__(self, settings: Settings) -> None:
        self.terms: list[TermsSet] = []
        self.posted: list[tuple[str, object]] = []
        super().__init__(settings, Identity.from_seed(seeded("node")), lambda event: None)

    def tell_terms(self, terms: TermsSet) -> None:
        self.terms.append(terms)

    def running(self) -> Any:
        return self

    def post(self, sender: str, receiver: str, message: object) -> None:
        self.posted.append((receiver, message))


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Settings]:
    def load(*flags: str, **variables: str) -> Settings:
        return load_settings(flags, {"HOME": str(tmp_path), **variables})

    return load


async def test_a_change_holds_at_once_and_is_kept(read: Callable[..., Settings]) -> None:
    node = Told(read())
    said = await change_mode(node, {"mode": "dedicated", "max_bandwidth": "3600", "public": "off"}, read)
    assert node.terms == [TermsSet(True, "", "", 0, 1e6, 2048, listed="")]
    assert node.settings.max_bandwidth == 3600 and node.settings.public is False
    assert said["settings"]["mode"] == "dedicated" and said["overruled"] == {}
    assert read().max_bandwidth == 3600 and said["file"] == str(read().config)
    assert said["origin"]["max_bandwidth"].startswith("file ")
    await change_mode(node, {}, read)
    await change_mode(node, {"incentive": "credits"}, read)
    assert len(node.terms) == 1  # none of RelayServer's affairs
    told = ModeTold(True, "credits", metered=True)
    assert node.posted[-4:] == [(name, told) for name in ("reputation", "whereabouts", "extension", "mdns")]


async def test_what_a_flag_or_the_environment_says_wins(read: Callable[..., Settings]) -> None:
    def reload() -> Settings:
        return read("--max-bandwidth", "100", DESCORD_RELAY_RUN_WHEN="charging")

    node = Told(reload())
    said = await change_mode(node, {"max_bandwidth": "500", "run_when": "idle", "max_circuits": "5"}, reload)
    assert said["overruled"] == {"max_bandwidth": "flag", "run_when": "environment"}
    assert (node.settings.max_bandwidth, node.settings.run_when, node.settings.max_circuits) == (100, "charging", 5)
    assert (read().max_bandwidth, read().run_when) == (500, "idle")
    node.mode.stop()


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ({"mode": "dedicted"}, "one of client-only, cooperative, dedicated"),
        ({"max_bandwidth": "-1"}, "max_bandwidth"),
        ({"max_bandwidth": {}}, "max_bandwidth"),
        ({"mode": "dedicated", "log_level": "debug"}, "log_level: not of the mode"),
    ],
)
async def test_what_is_wrong_changes_nothing(
    wanted: dict[str, object], text: str, read: Callable[..., Settings]
) -> None:
    node = Told(read())
    with pytest.raises(SettingsError, match=text):
        await change_mode(node, wanted, read)
    assert not read().config.exists() and node.terms == []


async def test_other_settings_of_the_file_wait_for_their_time(read: Callable[..., Settings]) -> None:
    node = Told(read())
    node.settings.config.parent.mkdir(parents=True)
    node.settings.config.write_text("idle_timeout = 5 # soon\n")
    await change_mode(node, {"max_circuits": 9}, read)
    assert node.settings.idle_timeout == 60.0 and node.settings.max_circuits == 9
    assert node.settings.config.read_text() == "idle_timeout = 5 # soon\nmax_circuits = 9\n"
    assert set(NAMES) < set(node.settings.origin)


async def test_the_machine_is_looked_at_while_that_matters(
    read: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = MachineState(charging=False, busy=0.0)
    monkeypatch.setattr(MachineWatch, "look", lambda self: state)
    told: list[TermsSet] = []
    now = 1000.0
    keeper = ModeKeeper(read("--run-when", "charging"), lambda: now, told.append)
    assert "charging" in keeper.terms().refusal and told == []
    keeper.start()
    assert keeper._timer is not None
    state, now = MachineState(charging=True, busy=0.0), now + node_mode.INTERVAL
    keeper._look()
    assert [terms.refusal for terms in told] == [""]
    keeper.choose(read("--run-when", "always"))
    assert keeper._timer is None and len(told) == 1


def test_a_person_reads_what_holds() -> None:
    report = {"mode": "cooperative", "max_bandwidth": 500, "bytes_last_hour": 12_345_678, "paused": "", "uptime": 1.0}
    report["below_target"] = False
    assert mode_words(report) == "cooperative: 12.3 MB in the last hour of at most 500"
    report |= {"paused": "the relay runs only while its machine is idle", "below_target": True, "uptime": 0.25}
    assert mode_words(report).endswith("; it relayed 25% of the last day, below uptime_target because of run_when")
    assert "nothing new now: the relay runs only" in mode_words(report)
    assert mode_words({"event": "status"}) == ""
