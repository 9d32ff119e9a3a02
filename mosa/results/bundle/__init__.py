"""Bundles: an experiment's records, specifications and predictions in one file that others can verify."""
