"""For all tests."""

from __future__ import annotations

import signal

# Under nohup a node would inherit that SIGHUP is ignored, and heed that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
