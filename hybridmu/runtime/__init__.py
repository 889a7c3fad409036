"""What runs where, as plain classes without ray."""
