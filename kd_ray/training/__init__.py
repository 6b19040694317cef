"""Distilling a student against the cache: batches, losses, the loop. Plain torch; runs without Ray."""
