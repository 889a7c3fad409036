"""Other models over the same people: links, forwards, successors, retirement."""
