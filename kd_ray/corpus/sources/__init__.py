"""Where images come from: every kind of source, on every kind of location."""
