"""The only I/O: sockets, names, files."""
