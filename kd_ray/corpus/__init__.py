"""From a source of images to a packed corpus: decoding, splitting, packing into shards, and reading them back."""
