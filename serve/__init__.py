"""Ray Serve deployments of a HybridMU system."""
