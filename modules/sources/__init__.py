"""The data sets that download_data.py knows: one small class each, that says where it comes from and what its licence is.

To add one: a class with `name`, `license`, `terms`, `parts`, `add_flags`, `rows` and `stories` (`record.Source`), and a line here.
Nothing heavy is imported until rows are asked for.
"""

from __future__ import annotations

from modules.sources.books import AfricanStorybook, BookDash
from modules.sources.codraw import CoDraw
from modules.sources.folder import Folder
from modules.sources.hub_tables import Coco, Flickr8k, FlintstonesSV, PororoSV, StoryReasoning
from modules.sources.m3it import M3IT
from modules.sources.storystream import StoryStream
from modules.sources.tables import Csv, HubParquet, Jsonl, Parquet
from modules.sources.vist import Vist

SOURCES = {
    source.name: source
    for source in (
        M3IT, StoryReasoning, StoryStream, Vist, Flickr8k, Coco, PororoSV, FlintstonesSV, CoDraw, AfricanStorybook, BookDash,
        Folder, Csv, Jsonl, Parquet, HubParquet,
    )
}  # fmt: skip
