#!/usr/bin/env python
"""Time training, inference or data loading."""

from detectron2.engine.tools.benchmark import invoke_main

if __name__ == "__main__":
    invoke_main()
