"""Workers: what happens on one shard, in one process."""
