"""Who delivers messages: one process (local), or many."""
