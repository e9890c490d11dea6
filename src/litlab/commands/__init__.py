"""What each command does: one file a command, a plain function from a config to a result; no Hydra inside."""
