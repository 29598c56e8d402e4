"""Kernels for CPUs: numba for what lies between convolutions, oneDNN for convolutions."""
