#!/usr/bin/env python
"""Train or evaluate as a YAML or LazyConfig file says."""

from detectron2.engine.entry_points import invoke_main

if __name__ == "__main__":
    invoke_main()
