"""Single pictures from their addresses, politely: slowly enough, twice at the most, and no more than a picture's bytes."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

from modules.downloads.record import DeadLink

MAX_BYTES = 50_000_000
SECONDS, PAUSE = 8.0, 1.0
AGENT = "story-generative-model/0.1 (download_data.py)"


def fetch_picture(address: str) -> bytes:
    """The bytes at an http(s) address. Raises DeadLink where there are none, or not of a picture."""
    for attempt in range(2):
        try:
            request = urllib.request.Request(address, headers={"User-Agent": AGENT})
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                content = answer.read(MAX_BYTES + 1)
                if (
                    "unavailable" in answer.url.rpartition("/")[2]
                ):  # What Flickr sends for a photograph that was taken away.
                    raise DeadLink(f"{address} was taken away")
                if not answer.headers.get_content_type().startswith(("image/", "application/octet-stream")):
                    raise DeadLink(f"{address} holds no picture but {answer.headers.get_content_type()}")
            if len(content) > MAX_BYTES:
                raise DeadLink(f"{address} is over {MAX_BYTES // 1_000_000} MB")
            return content
        except urllib.error.HTTPError as error:
            problem, again = f"answers {error.code}", error.code in (429, 500, 502, 503, 504)
        except (OSError, ValueError) as error:
            problem, again = f"cannot be reached ({getattr(error, 'reason', error)})", not isinstance(error, ValueError)
        if not again or attempt:
            break
        time.sleep(PAUSE)
    raise DeadLink(f"{address} {problem}")
