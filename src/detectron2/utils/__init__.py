"""Helpers that every other subpackage may use: logging, events, process groups, environment."""
