"""Predictions by a version of the model; plain classes without ray."""
