"""Numbers as people read them."""

BYTE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB")


def human_bytes(num_bytes: float) -> str:
    """12.8 MB and the like, in powers of 1000 as disks are sold."""
    for unit in BYTE_UNITS[:-1]:
        digits = 0 if unit == "B" else 1
        if round(abs(num_bytes), digits) < 1000:
            return f"{num_bytes:.{digits}f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} {BYTE_UNITS[-1]}"


def human_seconds(seconds: float) -> str:
    """4.2 s, 3 min 05 s, 2 h 07 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def counted(number: int, noun: str) -> str:
    """1 sample, 2 samples."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
