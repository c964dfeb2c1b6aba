"""The actors of a relay node: pure cores, the runtimes that deliver their messages, and the ports that do I/O."""
