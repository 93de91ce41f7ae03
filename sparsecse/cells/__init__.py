"""Measurements cell by cell: each is kept as soon as it is there, on whatever computes them."""
