"""Help for tests of loricate and of its plug-ins."""
