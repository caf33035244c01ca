"""The maps of one text over training, as an animated GIF."""

from __future__ import annotations

import io

from PIL import Image

_MILLISECONDS = 500
_LAST = 2000
_MOST_BYTES = 64 * 2**20


class Film:
    """Frames that become an animated GIF.

    Args:
        most: frames held at most, or fewer if they are large; when there are more, every second one is dropped, but
            never the first or the last.
        most_bytes: of all frames together, one byte a pixel.
    """

    def __init__(self, most: int = 120, most_bytes: int = _MOST_BYTES) -> None:
        self.most = most
        self.most_bytes = most_bytes
        self._frames: list[Image.Image] = []

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, frame: Image.Image) -> None:
        """Add a frame, of the same size as the others and with the palette of the figures."""
        self._frames.append(frame)
        n, (width, height) = len(self._frames), frame.size
        if n > self.most or (n > 2 and n * width * height > self.most_bytes):
            self._frames = [*self._frames[:-1:2], self._frames[-1]]

    def to_gif(self) -> bytes:
        """The film as an endless GIF, half a second a frame, the last one longer.

        Raises:
            ValueError: there is no frame.
        """
        if not self._frames:
            raise ValueError("a film needs a frame")
        stream = io.BytesIO()
        first, *others = self._frames
        durations = [_MILLISECONDS] * len(others) + [_LAST]
        first.save(stream, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=False)
        return stream.getvalue()
