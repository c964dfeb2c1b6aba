"""Messages between actors: frozen, and each in an inbox."""

from __future__ import annotations

import inspect
import typing

import msgspec
import pytest

from protocol import messages

ALL = [
    kind
    for _, kind in inspect.getmembers(messages, inspect.isclass)
    if issubclass(kind, messages._Message) and kind is not messages._Message
]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_message_may_travel_and_is_frozen(kind: type[msgspec.Struct]) -> None:
    assert kind in typing.get_args(messages.Message)
    assert kind.__struct_config__.frozen and kind.__struct_config__.tag == kind.__name__


def test_each_inbox_is_closed() -> None:
    inboxes = {*typing.get_args(messages.RelayServerMessage), *typing.get_args(messages.ForwarderMessage)}
    inboxes |= {*typing.get_args(messages.MetricsMessage)}
    assert inboxes == set(ALL)


def test_control_messages_are_messages() -> None:
    assert set(messages.CONTROL) <= set(ALL)
