"""Structured log lines on stderr: time, level, source, message, as ``key=value`` pairs (logfmt)."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Final

_PLAIN: Final = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:+")


class LogfmtFormatter(logging.Formatter):
    """``time=2026-01-31T12:00:00.000Z level=info source=actors.node msg="..."``; newlines are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        fields = {
            "time": time,
            "level": record.levelname.lower(),
            "source": record.name,
            "msg": record.getMessage(),
        }
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return " ".join(f"{key}={_value(text)}" for key, text in fields.items())


def _value(text: str) -> str:
    return text if text and _PLAIN.issuperset(text) else json.dumps(text)


def configure_logging(level: str) -> None:
    """Log at ``level`` (debug, info, warning, error) and above, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LogfmtFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
