"""Noise_XX_25519_ChaChaPoly_SHA256 as others have published it: cacophony's and snow's vectors.

libp2p's handshake has no prologue and payloads of its own, so what is checked is what it is built of: SymmetricState
and the key agreement, token by token, and the two ciphers of the transport.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_scalarmult_base

from protocol.arena import HEADROOM, Arena
from protocol.noise import Opener, Sealer, SymmetricState, _agree

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("noise_xx.json").read_text())["vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["from"])
def test_the_handshake_and_the_transport(vector: dict[str, Any]) -> None:
    def key(name: str) -> tuple[bytes, bytes]:
        private = bytes.fromhex(vector[name])
        return private, crypto_scalarmult_base(private)

    (i_static, i_static_public), (i_ephemeral, i_ephemeral_public) = key("init_static"), key("init_ephemeral")
    (r_static, r_static_public), (r_ephemeral, r_ephemeral_public) = key("resp_static"), key("resp_ephemeral")
    messages = [(bytes.fromhex(m["payload"]), bytes.fromhex(m["ciphertext"])) for m in vector["messages"]]
    initiator = SymmetricState(bytes.fromhex(vector["init_prologue"]))
    responder = SymmetricState(bytes.fromhex(vector["resp_prologue"]))

    payload, wire = messages[0]  # -> e
    initiator.mix_hash(i_ephemeral_public)
    assert i_ephemeral_public + initiator.encrypt(payload) == wire
    responder.mix_hash(wire[:32])
    assert responder.decrypt(wire[32:]) == payload

    payload, wire = messages[1]  # <- e, ee, s, es
    responder.mix_hash(r_ephemeral_public)
    responder.mix_key(_agree(r_ephemeral, i_ephemeral_public))
    sealed = responder.encrypt(r_static_public)
    responder.mix_key(_agree(r_static, i_ephemeral_public))
    assert r_ephemeral_public + sealed + responder.encrypt(payload) == wire
    initiator.mix_hash(wire[:32])
    initiator.mix_key(_agree(i_ephemeral, wire[:32]))
    assert initiator.decrypt(wire[32:80]) == r_static_public
    initiator.mix_key(_agree(i_ephemeral, r_static_public))
    assert initiator.decrypt(wire[80:]) == payload

    payload, wire = messages[2]  # -> s, se
    sealed = initiator.encrypt(i_static_public)
    initiator.mix_key(_agree(i_static, r_ephemeral_public))
    assert sealed + initiator.encrypt(payload) == wire
    assert responder.decrypt(wire[:48]) == i_static_public
    responder.mix_key(_agree(r_ephemeral, i_static_public))
    assert responder.decrypt(wire[48:]) == payload

    assert initiator.hash == responder.hash
    if "handshake_hash" in vector:
        assert initiator.hash.hex() == vector["handshake_hash"]
    keys = initiator.split()
    assert keys == responder.split()

    # The responder has the next word: messages 3, 5, ... are its own.
    sealers = [Sealer(keys[1]), Sealer(keys[0])]
    openers = [Opener(keys[1]), Opener(keys[0])]
    arena = Arena()
    for turn, (payload, wire) in enumerate(messages[3:]):
        view, start, end = sealers[turn % 2].seal(arena, memoryview(payload))
        framed = bytes(view[start:end])
        assert framed == len(wire).to_bytes(2, "big") + wire
        arena.inbound[: len(framed)] = framed
        consumed, plain_end = openers[turn % 2].open(arena, len(framed), HEADROOM)
        assert consumed == len(framed) and bytes(arena.plain_view[HEADROOM:plain_end]) == payload
        arena.reset()
