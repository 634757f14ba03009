"""Download single pictures from their addresses, with a timeout, a size limit and one further attempt."""

from __future__ import annotations

import http.client
import re
import time
import urllib.error
import urllib.request

from modules.downloads.record import DeadLink

MAX_BYTES = 50_000_000
SECONDS, PAUSE = 8.0, 1.0
AGENT = "story-generative-model/0.1 (download_data.py)"


def without_password(address: str) -> str:
    """Return an address without a user's name and password, for messages and files."""
    return re.sub(r"^(\w+:)?//[^/?#]*@", r"\1//", address)


def fetch_picture(address: str) -> bytes:
    """Return the picture's bytes at an http(s) address. Raises DeadLink if there is none."""
    name = without_password(address)
    if not address.lower().startswith(("http://", "https://")):
        raise DeadLink(f"{name} is not an http(s) address")
    for attempt in range(2):
        try:
            request = urllib.request.Request(address, headers={"User-Agent": AGENT})
            with urllib.request.urlopen(request, timeout=SECONDS) as answer:
                content = answer.read(MAX_BYTES + 1)
                if "unavailable" in answer.url.rpartition("/")[2]:  # Flickr redirects deleted photographs there.
                    raise DeadLink(f"{name} was deleted")
                if not answer.headers.get_content_type().startswith(("image/", "application/octet-stream")):
                    raise DeadLink(f"{name} is no picture but {answer.headers.get_content_type()}")
            if len(content) > MAX_BYTES:
                raise DeadLink(f"{name} is over {MAX_BYTES // 1_000_000} MB")
            return content
        except urllib.error.HTTPError as error:
            problem, again = f"answers {error.code}", error.code in (429, 500, 502, 503, 504)
        except (OSError, ValueError, http.client.HTTPException) as error:
            problem, again = f"cannot be reached ({getattr(error, 'reason', error)})", isinstance(error, OSError)
        if not again or attempt:
            break
        time.sleep(PAUSE)
    raise DeadLink(f"{name} {problem}")
