"""Models and hardware that are known by name, as data files with their sources."""
