"""How Ray Data is set for datasets of one operator, whose rows only describe work."""

import ray.data

from kd_ray.engine.session import hush

MAX_ACTOR_START_FAILURES = 20  # spot nodes may vanish while a teacher loads; the default ends the job at the first
MAX_BLOCK_BYTES = 4 << 20
NO_PROGRESS_LIMIT_S = 6 * 3600  # waiting for spot capacity is not a failure


def configure_ray_data() -> None:
    """Quiet, and patient where a spot node may come late."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = 0
    # rows are descriptions: at the default of 128 MiB a task, a small object store would let only one run at a time
    context.target_max_block_size = MAX_BLOCK_BYTES
    # one operator has nobody to reserve for; with it on, ten sleeps of 0.5 s on two CPUs take 3.7 s instead of 2.6
    context.op_resource_reservation_enabled = False
    context.max_consecutive_actor_init_deaths = MAX_ACTOR_START_FAILURES
    context.execution_no_progress_timeout_s = NO_PROGRESS_LIMIT_S
    hush()
