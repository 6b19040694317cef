"""The exceptions a user can cause: each reaches the terminal as one paragraph, with exit status 2 and no traceback.

Leaf classes also inherit the builtin that a caller of the Python API would catch. Every class takes one message, so
all of them cross process borders by pickling.
"""


class KdRayError(Exception):
    """Base of everything kd_ray raises on purpose; the message says what, where, got, expected, what to do."""


class RecipeError(KdRayError, ValueError):
    """The recipe cannot be run as written; the message lists every mistake found in one pass."""


class CorpusError(KdRayError, ValueError):
    """The corpus is missing, empty, changed in a way that cannot be appended, or has too many bad inputs."""


class ShardCorrupt(KdRayError, OSError):
    """A packed shard is missing, or its checksum does not match."""


class WeightsError(KdRayError, ValueError):
    """Weights cannot be loaded safely, or do not fit the model they are for."""


class ModelError(KdRayError, ValueError):
    """A model cannot be built as described, or lacks an output that was asked of it."""


class FingerprintMismatch(KdRayError, ValueError):
    """Stored data was made from something else than the recipe asks for; the first difference is named."""


class CacheCorrupt(KdRayError, OSError):
    """Stored bytes do not match their checksum or commit record; the object is named."""


class CacheIncomplete(KdRayError, LookupError):
    """Units that a reader needs have not been committed."""


class ViewMismatch(KdRayError, ValueError):
    """A replayed view is not the view that the teacher saw; the sample, the view and both digests are named."""


class StorageError(KdRayError, OSError):
    """A location cannot be read or written."""


class TrainingError(KdRayError, RuntimeError):
    """Training cannot go on, for instance because the loss is not finite."""


class ExtractionError(KdRayError, RuntimeError):
    """The teacher gave outputs that may not be stored, or a unit failed for good."""


class ClusterError(KdRayError, RuntimeError):
    """The Ray cluster cannot give what the recipe asks for."""
