"""The study: strategies and baselines against each other on real data. `jobs/study.py` is its command."""
