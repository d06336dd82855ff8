"""The bundled runtime: executes a plan with PyTorch and serves it over HTTP."""
