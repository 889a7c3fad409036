"""Pure planning: what a removal costs, and which strategy each shard gets."""
