"""Bytes from specifications and other implementations, and the tests that read them."""
