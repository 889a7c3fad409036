"""Small trained tensors on a frozen transformer, which all sub-models of a process share."""
