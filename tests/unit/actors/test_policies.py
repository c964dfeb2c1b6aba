"""What a policy is without settings is what the settings are without a value."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from actors.links import ForwarderPolicy
from actors.policies import forwarder_policy, host_policy, not_applied, relay_server_policy, restart_policy
from actors.ports.endpoint import HostPolicy
from actors.relay_server import RelayServerPolicy
from actors.settings import Settings, load_settings
from actors.supervisor import RestartPolicy


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings([], {"HOME": str(tmp_path)})


def test_defaults_are_those_of_the_settings(settings: Settings) -> None:
    assert RelayServerPolicy() == relay_server_policy(settings)
    assert ForwarderPolicy() == forwarder_policy(settings)
    assert HostPolicy() == host_policy(settings)
    assert RestartPolicy() == restart_policy(settings)


def test_what_only_the_nodes_start_reads(settings: Settings) -> None:
    read = {"max_circuits": 5, "idle_timeout": 9.0, "max_backlog": 1 << 20, "forwarders": 3, "rate_limits": False}
    assert not_applied(settings, replace(settings, **read, ping_rate_per_connection=3.0, announce=("x",))) == []
    left = {"log_level": "debug", "listen": (), "metrics_port": 1, "heartbeat_timeout": 1.0}
    assert sorted(not_applied(settings, replace(settings, **read, **left))) == sorted(left)
