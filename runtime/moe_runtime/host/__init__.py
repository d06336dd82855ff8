"""The processes of one host: a parent that has torch and forks the ranks, and the channel to the frontend."""
