"""Choosing hyper-parameters: which are tried, on train and val alone, and which one is taken."""
