"""The `kd-ray cache` commands, one module each."""
