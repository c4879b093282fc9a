#!/usr/bin/env python
"""Draw a COCO result file beside the ground truth."""

from detectron2.engine.tools.visualize_json_results import invoke_main

if __name__ == "__main__":
    invoke_main()
