"""Benchmarks: this package and its peers do the same work, measured side by side in one run.

`run.run_bench` is what `alexnet bench` calls. `gpu` has what `make bench-gpu` measures beyond that.
"""
