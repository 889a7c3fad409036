"""The demo: a person's review is forgotten, on real reviews and a local Ray, proven and certified, with a report."""

from hybridmu.demo.story import run_demo

__all__ = ["run_demo"]
