"""Who asks RelayServer how it is, the node and its metrics, goes on at once when it is down."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from actors import ray_node
from actors.actor import Send
from actors.ports import metrics_port
from actors.ports.telemetry import telemetry_config
from actors.runtime.local import LocalRuntime
from actors.settings import load_settings
from actors.supervisor import RestartPolicy
from protocol import messages as m
from protocol.identity import Identity
from tests.runtimes.stage import PATIENCE, Answerer, Stage
from tests.support.peers import seeded

RELAY_SERVER = "relay_server"


class Silent(Answerer):
    """Hears status questions, and answers none."""

    def handle(self, message: m.RelayServerMessage, now: float) -> list[Send]:
        return super().handle(message, now) if not isinstance(message, m.StatusAsked) else []


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A RelayServer that is not back before the test is over.  Its askers have all the time of the world."""
    for module in (ray_node, metrics_port):
        monkeypatch.setattr(module, "STATUS_PATIENCE", 1000.0)
    stage = Stage(LocalRuntime, restarts=RestartPolicy(first_delay=1000.0, max_delay=1000.0))
    stage.runtime.add(RELAY_SERVER, Silent)
    return stage


async def break_it(stage: Stage) -> None:
    stage.say(RELAY_SERVER, m.CircuitOpened(1, "raise"))
    while await stage.inbox.next() != m.ActorDown(RELAY_SERVER):
        pass


async def test_the_node_says_that_it_does_not_know(stage: Stage, tmp_path: Path) -> None:
    settings = load_settings([], {"HOME": str(tmp_path)})
    identity = Identity.from_seed(seeded("node"))
    node = ray_node.RayNode(settings, identity, lambda event: None, telemetry_config(settings, {}))
    node._runtime = stage.runtime
    stage.runtime.add(ray_node.DESK, lambda: node.desk)
    await stage.runtime.start()
    for _ in range(2):  # the second time it falls it stays down
        asking = asyncio.create_task(node.status(1.0))
        await asyncio.sleep(0)
        await break_it(stage)
        assert await asyncio.wait_for(asking, PATIENCE) == {"event": "status"}
    assert await asyncio.wait_for(node.status(1.0), PATIENCE) == {"event": "status"}
    await stage.runtime.stop()


async def test_the_metrics_are_given_without_its_own(stage: Stage, tmp_path: Path) -> None:
    settings = load_settings([], {"HOME": str(tmp_path)})
    metrics = metrics_port.NodeMetrics(settings, stage.runtime, dict)
    metrics.add()
    await stage.runtime.start()
    for _ in range(2):
        asking = asyncio.create_task(metrics.page())
        await asyncio.sleep(0)
        await break_it(stage)
        assert b"relay_server_answers 0" in await asyncio.wait_for(asking, PATIENCE)
    assert b"relay_server_answers 0" in await asyncio.wait_for(metrics.page(), PATIENCE)
    await stage.runtime.stop()
