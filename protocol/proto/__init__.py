"""Protobuf messages, written after the libp2p specifications and generated with protoc (see protocol/README.md)."""
