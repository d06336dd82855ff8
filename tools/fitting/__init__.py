"""Fitting the cost model's constants to measured kernels and serving points; `tools/fit.py` is the command."""
