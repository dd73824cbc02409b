"""Where a sweep runs: Kubernetes manifests, client, submitting and scheduling."""
