"""What a policy is without settings is what the settings are without a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.links import ForwarderPolicy
from actors.policies import forwarder_policy, host_policy, relay_server_policy, restart_policy
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
