"""Which processes are the training workers of a cluster, and how far their run is."""

from pathlib import Path

from tests.support.event_files import events_of


def train_workers(ray: Path) -> list[int]:
    """Process ids of the training workers of the cluster that lives in the folder `ray`."""
    raylets = {pid for pid, command in commands().items() if str(ray) in command and "raylet" in command}
    return sorted(pid for pid, command in commands().items() if "RayTrainWorker" in command and parent(pid) in raylets)


def commands() -> dict[int, str]:
    """Of all processes, by id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            found[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def parent(pid: int) -> int:
    """-1 where the process is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return -1


def first_worker(run: Path) -> int | None:
    """Process id of the worker of rank 0, which alone writes TensorBoard's files; None where there is none yet."""
    files = sorted((run / "tensorboard").glob("events.out.tfevents.*"), key=lambda path: int(path.name.split(".")[3]))
    return int(files[-1].name.rsplit(".", 1)[1]) if files else None


def last_step(run: Path, pid: int) -> int:
    """The last step that the worker `pid` has logged; 0 where it has logged none."""
    (path,) = (run / "tensorboard").glob(f"events.out.tfevents.*.{pid}")
    return max((event.step for event in events_of(path) if event.summary.value), default=0)
