#!/usr/bin/env python
"""Train or evaluate as a LazyConfig file says (the same program as train_net.py)."""

from detectron2.engine.entry_points import invoke_main

if __name__ == "__main__":
    invoke_main()
