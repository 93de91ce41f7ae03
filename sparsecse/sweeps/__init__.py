"""Sweeps: a grid or a list of runs, whose scores and dense figures are shared; killed, they go on."""
