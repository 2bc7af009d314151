"""Clean and backdoored adapters on the embedded model, and what tells them apart."""
