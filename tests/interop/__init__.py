"""Peers built on go-, rust-, js- and py-libp2p use this relay. README.md says how to run it."""
