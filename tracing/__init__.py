"""Spans, metrics and their redaction.  Nothing is recorded yet: the envelope of messages carries W3C trace context."""
