"""The data sets that download_data.py knows: one small class each, that says where it comes from and what its licence
is.

To add one: a class with `name`, `license`, `terms`, `parts`, `add_flags`, `rows` and `stories` (`record.Source`), and a
line here. Nothing heavy is imported until rows are asked for.
"""

from __future__ import annotations

from modules.downloads.books import AfricanStorybook, BookDash
from modules.downloads.codraw import CoDraw
from modules.downloads.folder import Folder
from modules.downloads.hub_tables import Coco, Flickr8k, FlintstonesSV, PororoSV, StoryReasoning
from modules.downloads.m3it import M3IT
from modules.downloads.storystream import StoryStream
from modules.downloads.tables import Csv, HubParquet, Jsonl, Parquet
from modules.downloads.vist import Vist

SOURCES = {
    source.name: source
    for source in (
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
        HubParquet,
    )
}
