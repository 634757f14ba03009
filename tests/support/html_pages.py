"""What a browser would make of a page."""

from __future__ import annotations

from html.parser import HTMLParser


class Collector(HTMLParser):
    """What a browser would see: tags, attributes, texts."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags, self.attributes, self.text = [], [], []
        self.feed(document)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_data(self, data):
        self.text.append(data)

    def values(self, name: str, tag: str | None = None) -> list[str]:
        return [value for owner, key, value in self.attributes if key == name and tag in (None, owner)]
