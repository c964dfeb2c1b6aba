"""PCP and NAT-PMP: the bytes of RFC 6886 and RFC 6887, and what routers answer."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import port_mapping
from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.port_mapping import Mapped, MappingRefused, NoPcp

NONCE = bytes(range(12))
CLIENT = IPv4Address("192.168.1.5")
V4 = "00000000000000000000ffff"

#: As laid out in RFC 6887, 7.2 and 11.1: version 2, response to MAP, success, a lease of 7200 s, epoch 1000.
PCP_ANSWER = bytes.fromhex(
    "02810000" "00001c20" "000003e8" "000000000000000000000000"
    "000102030405060708090a0b" "06000000" "0fa1" "1f90" + V4 + "cb007107"
)  # fmt: skip

#: RFC 6886, 3.3: version 0, opcode 128 + 2, success, epoch 1000, ports 4001 and 8080, 3600 s.
PMP_ANSWER = bytes.fromhex("00820000000003e80fa11f9000000e10")


def test_requests_are_as_the_rfcs_have_them() -> None:
    assert port_mapping.pcp_request(NONCE, CLIENT, 4001, 8080, 7200) == bytes.fromhex(
        "0201000000001c20" + V4 + "c0a80105000102030405060708090a0b060000000fa11f90" + V4 + "00000000"
    )
    assert port_mapping.pmp_request(4001, 8080, 3600) == bytes.fromhex("000200000fa11f9000000e10")
    assert port_mapping.pmp_external_request() == bytes(2)
    with pytest.raises(LocalProtocolError):
        port_mapping.pcp_request(b"short", CLIENT, 4001, 0, 1)


def test_answers() -> None:
    assert port_mapping.pcp_answer(PCP_ANSWER, NONCE, 4001) == Mapped(
        4001, 8080, IPv4Address("203.0.113.7"), 7200, 1000
    )
    assert port_mapping.pmp_answer(PMP_ANSWER, 4001) == Mapped(4001, 8080, None, 3600, 1000)
    assert port_mapping.pmp_external_answer(bytes.fromhex("00800000000003e8cb007107")) == IPv4Address("203.0.113.7")
    over_six = PCP_ANSWER[:-16] + IPv6Address("2001:db8::1").packed
    told = port_mapping.pcp_answer(over_six, NONCE, 4001)
    assert told is not None and told.address == IPv6Address("2001:db8::1")
    unknown = PCP_ANSWER[:-4] + bytes(4)
    told = port_mapping.pcp_answer(unknown, NONCE, 4001)
    assert told is not None and told.address is None


def test_a_lease_is_believed_up_to_a_day() -> None:
    forever = PCP_ANSWER[:4] + b"\xff\xff\xff\xff" + PCP_ANSWER[8:]
    told = port_mapping.pcp_answer(forever, NONCE, 4001)
    assert told is not None and told.lifetime == port_mapping.MAX_LEASE


def test_answers_to_others_are_not_ours() -> None:
    assert port_mapping.pcp_answer(PCP_ANSWER, bytes(12), 4001) is None
    assert port_mapping.pcp_answer(PCP_ANSWER, NONCE, 4002) is None
    assert port_mapping.pcp_answer(b"\x02\x01" + PCP_ANSWER[2:], NONCE, 4001) is None, "a request"
    assert port_mapping.pmp_answer(PMP_ANSWER, 4002) is None
    assert port_mapping.pmp_answer(bytes.fromhex("00800000000003e8cb007107"), 4001) is None


def test_a_no_says_why() -> None:
    with pytest.raises(MappingRefused, match="not authorized"):
        port_mapping.pcp_answer(PCP_ANSWER[:3] + b"\x02" + PCP_ANSWER[4:], NONCE, 4001)
    with pytest.raises(MappingRefused, match="PCP result 99"):
        port_mapping.pcp_answer(PCP_ANSWER[:3] + b"\x63" + PCP_ANSWER[4:], NONCE, 4001)
    with pytest.raises(MappingRefused, match="switched off"):
        port_mapping.pmp_answer(PMP_ANSWER[:3] + b"\x02" + PMP_ANSWER[4:], 4001)
    with pytest.raises(MappingRefused, match="NAT-PMP result 77"):
        port_mapping.pmp_external_answer(bytes.fromhex("0080004d000003e8"))


def test_a_router_of_nat_pmp_alone_is_told_by_its_version() -> None:
    for answer in (bytes.fromhex("0081000100000000"), PCP_ANSWER[:3] + b"\x01" + PCP_ANSWER[4:]):
        with pytest.raises(NoPcp):
            port_mapping.pcp_answer(answer, NONCE, 4001)


@given(st.binary(max_size=1200))
def test_any_bytes_are_an_answer_or_an_error(data: bytes) -> None:
    for read in (
        lambda: port_mapping.pcp_answer(data, NONCE, 4001),
        lambda: port_mapping.pmp_answer(data, 4001),
        lambda: port_mapping.pmp_external_answer(data),
    ):
        try:
            read()
        except RemoteProtocolError:
            pass
