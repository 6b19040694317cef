"""python -m tests.benchmarks: every benchmark, a table each, and the same as JSON under out/bench/."""

from tests.benchmarks import (
    cache_peers,
    cache_reading,
    cache_reading_s3,
    cached_epoch,
    extraction,
    kept_views,
    manifests,
    packing,
    plan_accuracy,
    reader_memory,
    view_bytes,
    views,
)

if __name__ == "__main__":
    cached_epoch.main([])
    extraction.main(["--ray"])
    views.main([])
    kept_views.main([])
    cache_reading.main([])
    cache_reading_s3.main([])
    cache_peers.main([])
    reader_memory.main([])
    manifests.main([])
    view_bytes.main()
    packing.main(["speed"])
    plan_accuracy.main([])
