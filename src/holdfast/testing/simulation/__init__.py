"""Whole networks under faults, one seed at a time (docs/design.md, 10)."""
