"""The registry of nodes, refs and placements. Plans and decides; holds no keys (docs/design.md, 6)."""
