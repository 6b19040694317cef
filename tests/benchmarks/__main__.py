"""python -m tests.benchmarks: every benchmark, a table each, and the same as JSON under out/bench/."""

from tests.benchmarks import (
    cache_reading,
    cache_reading_s3,
    cached_epoch,
    kept_views,
    manifests,
    packing,
    reader_memory,
    views,
)

if __name__ == "__main__":
    cached_epoch.main([])
    views.main([])
    kept_views.main([])
    cache_reading.main([])
    cache_reading_s3.main([])
    reader_memory.main([])
    manifests.main([])
    packing.main(["speed"])
