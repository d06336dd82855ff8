"""Kubernetes around the planner, and the `moe` command."""
