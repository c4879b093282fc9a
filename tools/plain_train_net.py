#!/usr/bin/env python
"""Train with a loop written out in full, see detectron2.engine.plain_loop."""

from detectron2.engine.plain_loop import invoke_main

if __name__ == "__main__":
    invoke_main()
