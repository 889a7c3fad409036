"""What one can do with a system, by concern; `hybridmu.system.System` is all of it."""
