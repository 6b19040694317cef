"""The work of the extract stage on one unit; the engine decides where and when it runs."""
