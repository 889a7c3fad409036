"""Runtime: coordinator, workers, purge and audits as plain classes without ray."""
