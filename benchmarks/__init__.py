"""Speed, as ratios inside one run; `make bench` prints them and keeps the numbers in benchmarks/results."""
