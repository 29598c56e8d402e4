"""Kernels for CPUs: numba for blocks, oneDNN for convolutions and linear layers."""
