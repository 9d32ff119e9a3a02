"""What a run costs, without running it: FLOPs and memory."""
