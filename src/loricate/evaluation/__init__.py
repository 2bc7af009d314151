"""Plans, runs and judges attacks: what is measured, how sure it is, and what follows."""
