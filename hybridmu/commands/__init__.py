"""Groups of verbs of the command line, each a typer application, and what all verbs share."""
