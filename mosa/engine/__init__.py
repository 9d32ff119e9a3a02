"""From one specification to one record: the loop, batches, resuming, features, the machine."""
