"""Models that are functions of integer sums over rows: sums, exact arithmetic on them, and the weights they define."""
