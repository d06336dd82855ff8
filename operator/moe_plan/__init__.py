"""Pure planning: a MoEDeployment's spec in, a proved plan out. No clock, no network, no Kubernetes."""
