"""Reproducible comparisons, one command each: see README.md."""
