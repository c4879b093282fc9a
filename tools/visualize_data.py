#!/usr/bin/env python
"""Draw the training data of a config."""

from detectron2.engine.tools.visualize_data import invoke_main

if __name__ == "__main__":
    invoke_main()
