"""The operator's decisions: from everything observed of a deployment to writes, status and events. Pure."""
