"""The coordinator's tables and queries by name. It is an index: lost, it is rebuilt from nodes and the owner's key."""
