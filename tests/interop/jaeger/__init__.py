"""A real Jaeger for the tests, built from its Go module."""
