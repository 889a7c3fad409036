"""Built-in real datasets: where they come from, and how they are read."""
