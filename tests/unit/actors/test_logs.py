"""A log line is one line, whatever is in its message."""

from __future__ import annotations

import logging
import sys

from actors.logs import LogfmtFormatter


def line(message: str, *, failed: bool = False) -> str:
    error = None
    if failed:
        try:
            raise ValueError('bad "value"\nhere')
        except ValueError:
            error = sys.exc_info()
    record = logging.LogRecord("actors.node", logging.WARNING, "node.py", 1, message, (), error)
    record.created = 1_767_225_600.25
    return LogfmtFormatter().format(record)


def test_a_line_has_time_level_source_and_message() -> None:
    assert line("stopping") == "time=2026-01-01T00:00:00.250Z level=warning source=actors.node msg=stopping"


def test_a_message_cannot_forge_a_line_or_a_field() -> None:
    text = line('done" level=error\nlevel=info msg=forged\x1b[31m')
    assert "\n" not in text
    assert "\x1b" not in text
    assert text.endswith(r'msg="done\" level=error\nlevel=info msg=forged\u001b[31m"')


def test_an_empty_message_is_still_a_field() -> None:
    assert line("").endswith(' msg=""')


def test_an_error_stays_on_the_line() -> None:
    text = line("failed", failed=True)
    assert "\n" not in text
    assert r"ValueError: bad \"value\"\nhere" in text
