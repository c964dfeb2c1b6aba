"""Kademlia's messages as go's and js' libraries write them (tests/vectors/kad.json says how it was made)."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from protocol import kad
from protocol.identity import PeerId
from protocol.kad import KadMessage, KadPeer, KadRecord, MessageType
from protocol.kad_keys import RELAYS, descriptor_key, provider_cid, provider_key

VECTORS = json.loads(Path(__file__).with_name("kad.json").read_text())
LIBRARIES = ("go", "js")
FIRST, SECOND = (PeerId.parse(text) for text in VECTORS["go"]["peers"].split())
ADDRESSES = (
    bytes.fromhex("0401020304060fa1"),
    bytes.fromhex("2920010db8000000000000000000000001") + bytes.fromhex("91020fa1cd03"),
)
ONE, OTHER = KadPeer(FIRST.bytes, ADDRESSES), KadPeer(SECOND.bytes, ADDRESSES)
KEY, VALUE = provider_key(RELAYS), descriptor_key(FIRST)

REQUESTS = {
    "find_node": KadMessage(MessageType.FIND_NODE, FIRST.bytes),
    "get_providers": KadMessage(MessageType.GET_PROVIDERS, KEY),
    "add_provider": KadMessage(MessageType.ADD_PROVIDER, KEY, providers=(ONE,)),
    "get_value": KadMessage(MessageType.GET_VALUE, VALUE),
    "ping": KadMessage(MessageType.PING),
}


def raw(library: str, name: str) -> bytes:
    return bytes.fromhex(VECTORS[library][name])


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", REQUESTS)
def test_their_requests_are_understood(library: str, name: str) -> None:
    assert kad.decode_request(raw(library, name)) == REQUESTS[name]


@pytest.mark.parametrize("library", LIBRARIES)
def test_their_values_are_understood(library: str) -> None:
    put = kad.decode_request(raw(library, "put_value"))
    assert put.record is not None and (put.key, put.record.key, put.record.value) == (VALUE, VALUE, b"a value")
    got = kad.decode_answer(raw(library, "get_value_answer"), REQUESTS["get_value"])
    assert got.record is not None and got.record.value == b"a value"
    assert got.record.received.startswith("2026-01-02T03:04:05")


@pytest.mark.parametrize("library", LIBRARIES)
def test_their_answers_are_understood(library: str) -> None:
    found = kad.decode_answer(raw(library, "find_node_answer"), REQUESTS["find_node"])
    assert (found.closer, found.left_out) == ((ONE, OTHER), 0)
    found = kad.decode_answer(raw(library, "get_providers_answer"), REQUESTS["get_providers"])
    assert (found.closer, found.providers) == ((ONE,), (OTHER,))


@pytest.mark.parametrize("name", ("find_node", "get_providers", "get_value", "ping"))
def test_ours_are_those_of_go_to_the_byte(name: str) -> None:
    assert kad.encode(REQUESTS[name]) == raw("go", name)


def test_a_value_is_written_as_go_writes_it() -> None:
    put = KadMessage(MessageType.PUT_VALUE, VALUE, KadRecord(VALUE, b"a value"))
    assert kad.encode(put) == raw("go", "put_value")


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_directory_s_cid_is_theirs(library: str) -> None:
    text = VECTORS[library]["cid"]
    assert text == "b" + base64.b32encode(provider_cid(RELAYS)).decode().lower().rstrip("=")
