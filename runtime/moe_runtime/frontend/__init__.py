"""The frontend: HTTP, tokenizer, request state and the schedule. It imports no torch and outlives its ranks."""
