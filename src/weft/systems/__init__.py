"""Published whole networks, built from the rooms below."""
