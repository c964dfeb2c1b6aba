"""Messages between actors: frozen, and each in an inbox."""

from __future__ import annotations

import inspect
import typing

import msgspec
import pytest

from protocol import (
    discovery_messages,
    mapping_messages,
    mdns_messages,
    messages,
    quota_messages,
    reputation_messages,
    service_messages,
)
from protocol.message_base import Message

MODULES = (
    messages,
    service_messages,
    discovery_messages,
    mapping_messages,
    mdns_messages,
    quota_messages,
    reputation_messages,
)
ALL = {
    kind
    for module in MODULES
    for _, kind in inspect.getmembers(module, inspect.isclass)
    if issubclass(kind, Message) and kind is not Message
}
INBOXES = (
    messages.RelayServerMessage,
    messages.ForwarderMessage,
    messages.MetricsMessage,
    messages.CountsMessage,
    service_messages.ServiceMessage,
    discovery_messages.DiscoveryMessage,
    discovery_messages.DirectoryMessage,
    discovery_messages.ReputationMessage,
    discovery_messages.DiscoveryAnswer,
    discovery_messages.ReachabilityMessage,
    mdns_messages.MdnsMessage,
    quota_messages.ModeMessage,
    mapping_messages.MappingMessage,
    mapping_messages.ExternalMessage,
    discovery_messages.PublicRelaysMessage,
    reputation_messages.ContributionMessage,
    reputation_messages.ContributionAnswer,
)


@pytest.mark.parametrize("kind", sorted(ALL, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_message_may_travel_and_is_frozen(kind: type[msgspec.Struct]) -> None:
    assert kind in typing.get_args(messages.Message)
    assert kind.__struct_config__.frozen and kind.__struct_config__.tag == kind.__name__


def test_each_inbox_is_closed() -> None:
    # A union of one is that one.
    assert {kind for inbox in INBOXES for kind in typing.get_args(inbox) or (inbox,)} == ALL


def test_control_messages_are_messages() -> None:
    assert set(messages.CONTROL) <= set(ALL)
