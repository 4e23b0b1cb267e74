"""The measurer where memory runs out: a smaller canonical shape, said aloud, with the same numbers."""

from __future__ import annotations

import asyncio

import pytest
import torch

from glossator.errors import HarvestError
from glossator.harness.measurer import Measurer
from glossator.harness.planted_subject import PlantedDictionary, PlantedSubject
from glossator.harness.subject import TokenBatch
from glossator.types import Activations, FeatureId

TEXTS = [f"the falcon flew over the {thing} and {n} more" for n in range(9) for thing in ("table", "lamp")]


class Tight(PlantedSubject):
    """Has room for so many rows, and raises as an allocator does for more."""

    def __init__(self, room: int, error: Exception) -> None:
        super().__init__()
        self.room, self.error, self.rows = room, error, list[int]()

    def read(self, batch: TokenBatch) -> dict[str, torch.Tensor]:
        self.rows.append(len(batch.ids))
        if len(batch.ids) > self.room:
            raise self.error
        return super().read(batch)


async def measured(subject: PlantedSubject, said: list[str]) -> list[Activations]:
    async with Measurer(subject, PlantedDictionary(), batch_tokens=512, say=said.append) as measurer:
        return await measurer.measure([(text, FeatureId("planted", 0)) for text in TEXTS])


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)  # fmt: skip
def test_a_batch_that_does_not_fit_is_run_in_half_the_rows_and_that_is_said(error: Exception) -> None:
    said: list[str] = []
    expected = asyncio.run(measured(PlantedSubject(), []))
    tight = Tight(5, error)
    assert asyncio.run(measured(tight, said)) == expected
    first = tight.rows[0]
    assert first > 5 and tight.rows[-1] <= 5
    assert len(said) == tight.rows.index(tight.rows[-1])  # once for each time that it is halved
    assert all("ran out of memory" in line for line in said)
    assert max(tight.rows[len(said) :]) <= 5  # and it stays small


def test_one_text_that_does_not_fit_is_a_clear_error() -> None:
    with pytest.raises(HarvestError, match="single text"):
        asyncio.run(measured(Tight(0, MemoryError()), []))


def test_any_other_error_of_the_subject_is_not_taken_for_it() -> None:
    said: list[str] = []
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        asyncio.run(measured(Tight(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied")), said))
    assert not said


def test_without_a_listener_it_is_a_warning() -> None:
    async def work() -> list[Activations]:
        async with Measurer(Tight(5, MemoryError()), PlantedDictionary(), batch_tokens=512) as measurer:
            return await measurer.measure([(text, FeatureId("planted", 0)) for text in TEXTS])

    with pytest.warns(UserWarning, match="ran out of memory"):
        asyncio.run(work())
