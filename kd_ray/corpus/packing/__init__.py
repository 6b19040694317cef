"""From sources to packed shards: list, scan, plan, write, commit."""
