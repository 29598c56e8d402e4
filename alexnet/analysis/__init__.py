"""Looking at a network: its table, how two differ, time on several devices, features."""
