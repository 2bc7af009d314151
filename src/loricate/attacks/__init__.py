"""How a budget is searched, one file each."""
