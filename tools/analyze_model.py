#!/usr/bin/env python
"""Flops, activations, parameters and structure of a model."""

from detectron2.engine.tools.analyze_model import invoke_main

if __name__ == "__main__":
    invoke_main()
