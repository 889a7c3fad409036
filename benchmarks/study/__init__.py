"""The study: strategies and baselines against each other on real data. `benchmarks/run_study.py` is its command."""
