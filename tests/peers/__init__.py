"""Peers at a privacy level, with real relays: the other half of the product."""
