"""Self-contained HTML pages: tables, line charts and pictures in one file that opens anywhere."""

from detectron2.utils.html.chart import Series, line_chart
from detectron2.utils.html.page import Page, picture_source

__all__ = ["Page", "Series", "line_chart", "picture_source"]
