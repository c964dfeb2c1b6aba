"""The generated code is what protoc makes of the .proto files beside it, and its names are ours alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
SOURCES = sorted(path.relative_to(TOP).as_posix() for path in (TOP / "protocol" / "proto").glob("*.proto"))


def test_the_generated_code_is_current(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="grpcio-tools is in the dev extra")
    outputs = (f"--python_out={tmp_path}", f"--pyi_out={tmp_path}")
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", "-I.", *outputs, *SOURCES], cwd=TOP, check=True)
    made = {path.relative_to(tmp_path).as_posix(): path.read_text() for path in tmp_path.rglob("*_pb2.py*")}
    kept = {
        path.relative_to(TOP).as_posix(): path.read_text()
        for pattern in ("*_pb2.py", "*_pb2.pyi")
        for path in (TOP / "protocol" / "proto").glob(pattern)
    }
    assert len(made) == 2 * len(SOURCES)
    assert {name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name)} == set(), (
        "protocol/README.md has the command that makes them anew"
    )


@pytest.mark.parametrize("source", SOURCES)
def test_names_cannot_meet_those_of_another_implementation(source: str) -> None:
    """One process registers each protobuf name once: py-libp2p's are in ``circuit.pb`` and the like."""
    assert f"package descord.pb.{Path(source).stem};" in (TOP / source).read_text()
