"""Spans, metrics and their redaction: what is recorded here is written as if it will be published."""
