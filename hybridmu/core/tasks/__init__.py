"""Tasks: the model and the loss that are trained."""
