"""Kernels for NVIDIA GPUs, in Triton, and whole training steps as CUDA graphs."""
