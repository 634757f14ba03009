"""Read stories ahead in threads, with pictures at the model's size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from PIL import Image

from modules.data.images import fit_image
from modules.story import Story, StoryDataset


class ReadAhead:
    """Stories of a dataset with (size, size) RGB pictures; `workers` threads read the expected ones ahead.

    Threads, not processes: Pillow decodes and resizes without holding the interpreter's lock, and nothing has to be
    copied. With `workers` 0 every story is read on access. The number of workers does not change the result.
    """

    def __init__(self, dataset: StoryDataset, size: int, workers: int = 0) -> None:
        self.dataset, self.size, self.workers = dataset, size, workers
        self._pool = ThreadPoolExecutor(workers, "read_ahead") if workers else None
        self._futures: dict[int, Future[Story]] = {}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Story:
        future = self._futures.get(index)
        return self._read(index) if future is None else future.result()

    def outline(self, index: int) -> Story:
        """Return one story without its pictures."""
        return self.dataset.outline(index)

    def expect(self, indices: Iterable[int]) -> None:
        """Start reading these stories in this order, and drop all others; they are kept until the next call."""
        if self._pool is None:
            return
        before, self._futures = self._futures, {}
        for index in dict.fromkeys(indices):
            self._futures[index] = before.pop(index) if index in before else self._pool.submit(self._read, index)
        for dropped in before.values():
            dropped.cancel()

    def _read(self, index: int) -> Story:
        story, size = self.dataset[index], (self.size, self.size)
        steps = (
            step
            if step.image is None or (step.image.size == size and step.image.mode == "RGB")
            else replace(step, image=fit_image(step.image, self.size))
            for step in story.steps
        )
        return replace(story, steps=tuple(steps))


class Head:
    """A `StoryDataset` of the first `count` stories of another one, or all if there are fewer."""

    def __init__(self, dataset: StoryDataset, count: int) -> None:
        self.dataset, self.count, self.name = dataset, min(count, len(dataset)), dataset.name

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Story:
        return self.dataset[index]

    @property
    def lengths(self) -> Sequence[int]:
        return self.dataset.lengths[: self.count]

    def outline(self, index: int) -> Story:
        return self.dataset.outline(index)

    def texts(self) -> Iterator[str]:
        for index in range(self.count):
            story = self.outline(index)
            yield story.prompt
            yield from (step.text for step in story.steps if step.text is not None)

    def fingerprint(self) -> str:
        return f"{self.dataset.fingerprint()}[:{self.count}]"


def iterate_pages(dataset: StoryDataset | ReadAhead, indices: Sequence[int]) -> Iterator[Image.Image]:
    """Yield the pictures of some stories in order; steps without one are left out."""
    for index in indices:
        yield from (step.image for step in dataset[index].steps if step.image is not None)
