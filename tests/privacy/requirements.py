"""What the tests of privacy need beside Python."""

from __future__ import annotations

import os
import shutil

import pytest

PACKAGES = "tor tcpdump nftables openssh-client openssh-server"


def require(*programs: str) -> None:
    """Skip, loudly, where one is missing; in CI that fails."""
    missing = [program for program in programs if shutil.which(program) is None]
    if not missing:
        return
    told = f"NOT SHOWN, missing: {', '.join(missing)} (Debian: apt-get install {PACKAGES})"
    if os.environ.get("CI") == "true":
        pytest.fail(told, pytrace=False)
    pytest.skip(told)
