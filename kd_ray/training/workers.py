"""The workers that train one network together; one process alone is such a group too."""

import torch
import torch.distributed


def num_workers() -> int:
    """How many train together."""
    return torch.distributed.get_world_size() if _has_others() else 1


def is_first() -> bool:
    """Whether this worker is the one that writes."""
    return not _has_others() or torch.distributed.get_rank() == 0


def any_worker(flag: bool, device: torch.device) -> bool:
    """Whether `flag` is set on any of them; all call at the same point, and go on together."""
    if not _has_others():
        return flag
    found = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(found, op=torch.distributed.ReduceOp.MAX)
    return bool(found.item())


def wait_for_all(device: torch.device) -> None:
    """Until every worker has come here."""
    any_worker(False, device)


def _has_others() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
