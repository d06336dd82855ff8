"""Layouts of a manifest: enumerated by algebra, worked out to memory and prediction, and compared.

`choice` works out one layout, as a plan does, without numpy; the other modules work out all of them in columns.
"""
