"""Bytes of circuits by class of service (actors/shares.py), as a forwarder counts them."""

from __future__ import annotations

from collections import Counter

from actors.shares import PUBLIC
from protocol.switching import Circuit


class ClassBytes:
    """Nearly all circuits are the public's: what the others carried is counted, and the rest is theirs."""

    __slots__ = ("_before", "_living")

    def __init__(self) -> None:
        self._before: Counter[str] = Counter()
        #: By number: the circuit, and what it had carried elsewhere.
        self._living: dict[int, tuple[Circuit, int]] = {}

    def began(self, circuit: Circuit) -> None:
        """It is new, or came from another process.  What another forwarder brings is that one's to count."""
        if circuit.service_class != PUBLIC and circuit.id > 0:
            self._living[circuit.id] = circuit, _carried(circuit)

    def left(self, number: int) -> None:
        """It has ended, or goes on elsewhere."""
        if (found := self._living.pop(number, None)) is not None:
            circuit, elsewhere = found
            self._before[circuit.service_class] += _carried(circuit) - elsewhere

    def told(self, total: int) -> dict[str, int]:
        """Of ``total`` bytes, those of each class."""
        counts = self._before.copy()
        for circuit, elsewhere in self._living.values():
            counts[circuit.service_class] += _carried(circuit) - elsewhere
        return {PUBLIC: max(total - counts.total(), 0), **{name: size for name, size in counts.items() if size}}


def _carried(circuit: Circuit) -> int:
    return circuit.bytes_to_target + circuit.bytes_to_source
