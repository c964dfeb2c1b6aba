"""This relay measured beside the go, rust and js relays, in one run, with one set of clients."""
