"""What a training loop outside kd_ray asks of a cache (`kd_ray.cache.open(uri).torch_dataset`)."""

from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from kd_ray.config.base import Misfits
from kd_ray.config.corpus import PositiveInt
from kd_ray.config.models import Input
from kd_ray.errors import RecipeError


class DatasetSettings(Input):
    """The student's pixels, and which batches of them come in which order.

    `batch_size` is that of one rank. `rank` and `num_ranks` null: those of torch.distributed where it is in use. `seed`
    decides the order alone; `num_lanes` is a multiple of all worker processes of all ranks together.
    """

    num_views: PositiveInt | None = None
    batch_size: PositiveInt = 64
    shuffle: bool = True
    seed: int = 0
    keep_last: bool = False
    decode: bool = True
    verify_one_in: PositiveInt = 256
    num_lanes: PositiveInt = 16
    shuffle_window: PositiveInt = 2
    num_threads: PositiveInt = 1
    rank: Annotated[int, Field(ge=0)] | None = None
    num_ranks: PositiveInt | None = None

    @model_validator(mode="after")
    def _is_one_of_the_ranks(self) -> "DatasetSettings":
        if (self.rank is None) != (self.num_ranks is None):
            raise Misfits([("rank", "belongs together with num_ranks; give both or neither")])
        if self.rank is not None and self.num_ranks is not None and self.rank >= self.num_ranks:
            raise Misfits([("rank", f"must be below num_ranks = {self.num_ranks}, got {self.rank}")])
        return self

    @staticmethod
    def checked(values: dict[str, Any]) -> "DatasetSettings":
        """The settings of these values; a whole `size_px` is that of both sides.

        Raises:
            RecipeError: all that cannot be used.
        """
        size = values["size_px"]
        try:
            return DatasetSettings.model_validate(
                {**values, "size_px": (size, size) if isinstance(size, int) else size}
            )
        except ValidationError as error:
            told = [
                f"{'.'.join(map(str, each['loc']))}: got {each['input']!r}, {each['msg'][0].lower()}{each['msg'][1:]}"
                if each["loc"]
                else each["msg"].removeprefix("Value error, ")
                for each in error.errors(include_url=False)
            ]
            raise RecipeError(f"torch_dataset: {'; '.join(told)}.") from None

    @property
    def input(self) -> Input:
        """What the student gets."""
        return Input(size_px=self.size_px, mean=self.mean, std=self.std, interpolation=self.interpolation)
