"""What `make bench-gpu` measures in one visit to a GPU (`scripts/bench_gpu.py`).

`plan` lists all measurements in order of worth, `scale` says how large they are. `checks` has what
must be right, `commands` what a user waits for, `trace` what the device does meanwhile.
`predictions` compares the results with what was predicted.
"""
