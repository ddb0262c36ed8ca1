"""Measure speed as ratios inside one run. `make bench` prints them and stores the numbers in benchmarks/results."""
