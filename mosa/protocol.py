"""The protocol: what is trained on, what is evaluated, and the version of the rules.

The version is part of every record and of the workflow's parameters: raise it when a change of
the code changes results, and everything runs again.
"""

PROTOCOL_VERSION = 1

# stage -> (split that is trained on, split that is evaluated once after the last epoch)
STAGES = {"final": ("trainval", "test"), "selection": ("train", "val")}
