"""The `detectron2` command: one file per verb, each a thin call of a library function."""
