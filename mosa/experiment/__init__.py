"""From a config to specifications: its models, its expansion, the protocol, the plan. No torch, no pandas."""
