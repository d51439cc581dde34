"""Published experiments: one YAML each, run by ``weft run``."""
