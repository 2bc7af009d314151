"""Contracts: the abstract classes and value types in which attacks, defenses and models meet."""
