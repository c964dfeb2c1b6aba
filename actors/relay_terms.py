"""RelayServer's part in what the node's owner lets it do: who is refused for it, and what forwarders are told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from actors.actor import Send
from actors.admission import Asked, Refusal, refused
from actors.bandwidth import Bandwidth, LastHour
from actors.relay_mode import HOUR
from protocol import messages
from protocol.quota_messages import QuotaReturned, QuotaWanted, TermsChanged, TermsSet


class RelayTerms:
    """``terms``: as the node last said them; at first None: anything, with ``max_circuits``."""

    def __init__(self, terms: TermsSet | None, max_circuits: int) -> None:
        self.terms = terms or TermsSet(True, "", "", 0, 0.0, max_circuits)
        self._bandwidth = Bandwidth(self.terms.rate)
        self.last_hour = LastHour()

    @property
    def max_circuits(self) -> int:
        return self.terms.max_circuits

    def told(self, now: float) -> dict[str, Any]:
        """For a status."""
        terms = self.terms
        return {
            "bytes_last_hour": self.last_hour.total(now),
            "listed": terms.listed,
            "max_circuits": terms.max_circuits,
            "hourly": round(terms.rate * HOUR) or None,
        }

    def set(self, terms: TermsSet, forwarders: Iterable[str], now: float) -> list[Send]:
        """The owner said something else."""
        before, self.terms = self.terms, terms
        sends: list[Send] = []
        if (before.serves, before.rate) != (terms.serves, terms.rate):
            sends = [Send(forwarder, TermsChanged(terms.serves, terms.rate)) for forwarder in forwarders]
        if before.rate != terms.rate:
            sends += self._bandwidth.set_rate(terms.rate, now)
        return sends

    def reported(self, report: messages.ForwarderReport) -> list[Send]:
        """A forwarder says by which terms it goes; it is told if they are others."""
        self.last_hour.reported(report)
        terms = self.terms
        if (report.serves, report.rate) == (terms.serves, terms.rate):
            return []
        return [Send(report.forwarder, TermsChanged(terms.serves, terms.rate))]

    def refusal(self, asked: Asked, now: float) -> Refusal | None:
        """Why ``asked`` is refused whoever asks, None: it is not."""
        terms = self.terms
        if terms.refusal:
            return refused(asked, terms.setting, terms.refusal, terms.retry_after)
        if isinstance(asked, messages.ConnectAsked) and (retry_after := self._bandwidth.retry_after(now)):
            return refused(asked, "max_bandwidth", "the relay carries all that its owner lets it", retry_after)
        return None

    def lost(self, forwarder: str) -> None:
        """It is gone."""
        self._bandwidth.lost(forwarder)
        self.last_hour.lost(forwarder)

    # Quota.

    def begin(self, now: float) -> list[Send]:
        """All forwarders have reported: from now on this RelayServer gives quota, and no other."""
        return self._bandwidth.begin(now)

    def handle(self, message: QuotaWanted | QuotaReturned, now: float) -> list[Send]:
        if isinstance(message, QuotaWanted):
            return self._bandwidth.wanted(message, now)
        return self._bandwidth.returned(message, now)

    def next_deadline(self) -> float | None:
        return self._bandwidth.next_deadline()

    def handle_deadline(self, now: float) -> list[Send]:
        return self._bandwidth.handle_deadline(now)
