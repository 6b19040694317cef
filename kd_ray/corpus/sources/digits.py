"""scikit-learn's handwritten digits as a folder of PNG files: the corpus that needs no download."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from kd_ray.errors import CorpusError
from kd_ray.storage import open_storage

COMPLETE = ".complete.json"
MAX_VALUE = 16
NUM_WRITERS = 8


def write_digits(uri: str) -> None:
    """Write `<uri>/<digit>/<index>.png`, 1,797 grayscale files of 8x8, unless the marker says that all are there.

    Raises:
        CorpusError: `uri` holds other files; they would become part of the corpus.
    """
    storage = open_storage(uri)
    if storage.exists(COMPLETE):
        return
    files = _png_files()
    strangers = [name for name in storage.list("") if name not in files]
    if strangers:
        raise CorpusError(
            f"{uri}: holds {len(strangers)} files that are not the digits ({strangers[0]}). Give the digits a folder "
            "of their own, or use corpus.kind: folder."
        )
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        list(pool.map(storage.write, files.keys(), files.values()))
    storage.write(COMPLETE, b'{"num_files":%d}' % len(files))


def _png_files() -> dict[str, bytes]:
    # Imported late: it takes over a second and only this source needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    names = (f"{digit}/{index:04d}.png" for index, digit in enumerate(digits.target))
    return {name: _png(image_HW) for name, image_HW in zip(names, digits.images, strict=True)}


def _png(image_HW: np.ndarray) -> bytes:
    gray_HW = np.rint(image_HW * (255 / MAX_VALUE)).astype(np.uint8)
    buffer = io.BytesIO()
    # Level 0 stores: zlib and zlib-ng then agree on every byte, and with them all machines on every sample_id.
    Image.fromarray(gray_HW).save(buffer, format="PNG", compress_level=0)
    return buffer.getvalue()
