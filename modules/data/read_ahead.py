"""Stories with their pictures at the size of the model, some of them read before they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from PIL import Image

from modules.data.images import fit_image
from modules.story import Story, StoryDataset


class ReadAhead:
    """A source whose pictures are (size, size) RGB. Threads read what is expected next; what comes does not depend on
    them.

    Threads, not processes: Pillow decodes and resizes without holding the interpreter's lock, and nothing has to be
    copied. With no `workers` everything is read when it is asked for.
    """

    def __init__(self, source: StoryDataset, size: int, workers: int = 0) -> None:
        self.source, self.size, self.workers = source, size, workers
        self._pool = ThreadPoolExecutor(workers, "read_ahead") if workers else None
        self._coming: dict[int, Future[Story]] = {}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Story:
        coming = self._coming.get(index)
        return self._read(index) if coming is None else coming.result()

    def expect(self, indices: Iterable[int]) -> None:
        """Read these stories, in this order, and keep them until other ones are expected; forget the others."""
        if self._pool is None:
            return
        before, self._coming = self._coming, {}
        for index in dict.fromkeys(indices):
            self._coming[index] = before.pop(index, None) or self._pool.submit(self._read, index)
        for forgotten in before.values():
            forgotten.cancel()

    def _read(self, index: int) -> Story:
        story, size = self.source[index], (self.size, self.size)
        steps = (
            step
            if step.image is None or (step.image.size == size and step.image.mode == "RGB")
            else replace(step, image=fit_image(step.image, self.size))
            for step in story.steps
        )
        return replace(story, steps=tuple(steps))


class Head:
    """The first `count` stories of a source."""

    def __init__(self, source: StoryDataset, count: int) -> None:
        self.source, self.count = source, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Story:
        return self.source[index]


def iterate_pages(source: StoryDataset, indices: Sequence[int]) -> Iterator[Image.Image]:
    """The pictures of some stories, in order; steps without one are left out."""
    for index in indices:
        yield from (step.image for step in source[index].steps if step.image is not None)
