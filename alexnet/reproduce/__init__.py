"""Experiments that show the paper's claims: the same training but for one thing, on real data."""

from alexnet.reproduce.running import Machine, reproduce

__all__ = ["Machine", "reproduce"]
