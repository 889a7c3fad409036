"""The demo: the whole life of deletion requests, on real digits and a local Ray, with a report."""

from hybridmu.demo.story import run_demo

__all__ = ["run_demo"]
