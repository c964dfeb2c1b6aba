"""Wire machines without I/O: bytes and time come in; events, bytes and deadlines go out."""
