"""A replica of several pods: the frontend in slot 0 drives the ranks of all slots, through an agent in each other."""
