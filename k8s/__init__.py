"""Where a sweep runs: objects for KubeRay, sending them, watching them, scheduling nights."""
