"""The targets under atheris, which looks for inputs that reach new code.

    python -m tests.fuzz.atheris_targets "hop server" -max_total_time=60

What follows the target's name is libFuzzer's.  A name that is none prints them all.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["protocol", "actors"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit("targets: " + ", ".join(TARGETS))
    name = sys.argv.pop(1)
    corpus = Path(tempfile.mkdtemp(prefix="descord-fuzz-"))
    for number, seed in enumerate(SEEDS.get(name, ())):
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
