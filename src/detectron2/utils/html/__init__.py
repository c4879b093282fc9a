"""Self-contained HTML pages: tables, charts and pictures in one file that opens anywhere."""

from detectron2.utils.html.bars import Bar, bar_chart
from detectron2.utils.html.chart import Series, line_chart
from detectron2.utils.html.heatmap import heatmap
from detectron2.utils.html.page import Page, picture_source

__all__ = ["Bar", "Page", "Series", "bar_chart", "heatmap", "line_chart", "picture_source"]
