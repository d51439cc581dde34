"""TransMEF: pictures of several exposures made one, by a network that has only learned to restore single photos."""
