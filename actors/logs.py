"""Structured log lines on stderr: time, level, source, message, as ``key=value`` pairs (logfmt)."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:+")


class LogfmtFormatter(logging.Formatter):
    """``time=2026-01-31T12:00:00.000Z level=info source=actors.node msg="..."``; newlines are escaped.

    ``scrub``: takes peers and addresses out of a text.
    """

    def __init__(self, scrub: Callable[[str], str] = str) -> None:
        super().__init__()
        self._scrub = scrub

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {
            "time": time,
            "level": record.levelname.lower(),
            "source": record.name,
            "msg": self._scrub(record.getMessage()),
        }
        if record.exc_info:
            fields["error"] = self._scrub(self.formatException(record.exc_info))
        elif record.exc_text:  # of another process
            fields["error"] = self._scrub(record.exc_text)
        return " ".join(f"{key}={_value(text)}" for key, text in fields.items())


def _value(text: str) -> str:
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)


def configure_logging(level: str, scrub: Callable[[str], str] = str) -> None:
    """Log at ``level`` (debug, info, warning, error) and above, to stderr, what ``scrub`` leaves of each line."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogfmtFormatter(scrub))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
