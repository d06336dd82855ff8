"""Fetch a checkpoint into a directory, once a node: from Hugging Face or from S3, resumed and verified."""
