"""`kubectl moe`: what a person asks of the deployments of a cluster. Reads and never writes.

`cluster` speaks to the API server; all else is pure: objects in, lines of text out.
"""
