"""The sources of download_data.py: one small class each, which names its data set, licence and citation.

To add one, write a subclass of `record.Source` in a file of this folder, and list it here.
"""

from __future__ import annotations

from modules.downloads.books import AfricanStorybook, BookDash
from modules.downloads.codraw import CoDraw
from modules.downloads.folder import Folder
from modules.downloads.hub import Hub
from modules.downloads.hub_tables import Coco, Flickr8k, FlintstonesSV, PororoSV, StoryReasoning
from modules.downloads.m3it import M3IT
from modules.downloads.record import Source
from modules.downloads.storystream import StoryStream
from modules.downloads.tables import Csv, Jsonl, Parquet
from modules.downloads.vist import Vist

_CLASSES: tuple[type[Source], ...] = (
    M3IT,
    StoryReasoning,
    StoryStream,
    Vist,
    Flickr8k,
    Coco,
    PororoSV,
    FlintstonesSV,
    CoDraw,
    AfricanStorybook,
    BookDash,
    Folder,
    Csv,
    Jsonl,
    Parquet,
    Hub,
)
SOURCES = {source.name: source for source in _CLASSES}
