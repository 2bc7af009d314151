"""Model families: how they load, and the surfaces they offer."""
