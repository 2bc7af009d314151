"""Errors, registry, specs, seeds, quantities and arrays: what every layer stands on."""
