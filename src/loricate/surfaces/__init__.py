"""Any module becomes attackable and adaptable."""
