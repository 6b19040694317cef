"""From encoded bytes to pixels, and whether there will be any."""
