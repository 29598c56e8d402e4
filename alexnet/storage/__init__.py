"""Files on disk: whole writes, locks, untrusted files, checkpoints, metrics, run directories."""
