"""Studies of what pruning does to an encoder: measured cell by cell, resumable; `registry.py` has their names."""
